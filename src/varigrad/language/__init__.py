"""The language of programs: primitives, plates, handlers, messages and traces."""
