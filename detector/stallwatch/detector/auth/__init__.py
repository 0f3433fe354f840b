"""Who may do what: tokens, what they allow, and the certificates that connections are protected with."""
