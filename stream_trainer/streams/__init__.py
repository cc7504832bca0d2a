"""Touches the world: logs that are read, files that are written. Knows records and positions, no engine.

    kafka.py            the source over Apache Kafka, with positions that are ours
        kafka_options.py, kafka_connect.py, kafka_start.py    settings; connecting; where to begin, and lost data
        kafka_seam.py, kafka_records.py, kafka_batch.py       the lean reader, from the client inwards
        kafka_silence.py, kafka_display.py                    stalls; our progress for lag tools
    files.py            the source over a file
    dead_letter_file.py dead_letter_topic.py   where rejected records go
    embedded.py         a broker for the demo; paced_producer.py feeds it no faster than it is read

Nothing is imported here: the embedded broker's process should not pay for what it does not use.
"""
