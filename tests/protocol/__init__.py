"""The load protocol, with the real SDK against a stand-in, test by test."""
