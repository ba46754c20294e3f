//! From text to a checked tree; knows no plugin by name.

/// What is wrong with a Corefile, and where.
pub mod diagnostic;

/// The tree: blocks, directives, words.
pub mod tree;

/// Typed reading of one directive's words.
pub mod args;

/// Server block keys: `[SCHEME://]ZONE[:PORT]`.
pub mod key;
