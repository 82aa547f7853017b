"""Fuzzing of every entrance: whatever comes in ends in success or in a classified, readable error.

`properties` has one property for each entrance, `inputs` what is fed to it, `bench` the pipeline that it runs on, and
`runner` how both `pytest tests/fuzz` and `python -m fuzz` run them.
"""
