"""`python -m stream_trainer` is `stream-trainer`."""

from stream_trainer.cli import main

if __name__ == "__main__":
    main()
