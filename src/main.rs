//! Parses flags, calls the library, turns its result into an exit code.

fn main() {}
