"""Touches the world: logs that are read, files that are written. Knows records and positions, no engine.

    kafka.py           the source over Apache Kafka, positions ours     kafka_options.py    its settings
    kafka_connect.py   connecting, and saying why it failed             kafka_records.py    the lean record reader
    kafka_display.py   our progress, shown to lag tools                 files.py            the source over a file
    dead_letters.py    where rejected records go                        embedded.py         a broker for the demo
    paced_producer.py  feeds that broker no faster than it is read

Nothing is imported here: the embedded broker's process should not pay for what it does not use.
"""
