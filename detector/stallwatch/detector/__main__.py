"""`python -m stallwatch.detector`: the command line, where its script is not on the path."""

from stallwatch.detector.cli import main

if __name__ == "__main__":
    main()
