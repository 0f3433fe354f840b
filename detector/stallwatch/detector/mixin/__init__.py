"""What other tools need to know of Stallwatch, generated from its catalogue of metrics and its vocabulary of findings."""
