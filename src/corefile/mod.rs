//! From text to a checked tree; knows no plugin by name.
//!
//! ```text
//! octets --text--> text --lexer--> words --stream--> words, imports spliced in --parser--> tree --key--> zones
//!                                                                                     \--hash--> what `reload` compares
//! ```
//!
//! Every stage hands on a value and the faults it found, so one run tells all that is wrong with a file. Nothing here
//! fails on any octets: what cannot be read is a fault with a place.

/// Octets to text: encodings and sizes.
pub mod text;

/// Text to words with their places.
pub mod lexer;

/// Words in the order they count, imports spliced in.
mod stream;

/// Environment variables in words.
pub mod environment;

/// Files by pattern.
mod glob;

/// What `import` brings in.
mod import;

/// Words to a tree.
pub mod parser;

/// Faults as they are shown.
pub mod render;

/// What `reload` compares.
pub mod hash;

/// What is wrong with a Corefile, and where.
pub mod diagnostic;

/// The tree: blocks, directives, words.
pub mod tree;

/// Typed reading of one directive's words.
pub mod args;

/// Server block keys: `[SCHEME://]ZONE[:PORT]`.
pub mod key;

/// Addresses of HTTP listeners: `[HOST]:PORT`.
pub mod address;
