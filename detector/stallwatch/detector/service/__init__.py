"""The service as a whole: settings, start and end, and the runs it watches."""
