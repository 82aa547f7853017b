"""The whole local stack under fire: processes killed, the engine restarted, deliveries doubled and out of order.
`python -m chaos --files 1000 --seed 1` runs a campaign and compares the tables with a plain application of the files.
"""
