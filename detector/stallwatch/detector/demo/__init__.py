"""`stallwatch demo`: a real training job through four acts, watched by a real service, and judged."""
