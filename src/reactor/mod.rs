//! Work that waits, on the thread that began it.
//!
//! A query that asks an upstream over UDP waits for one datagram. To carry it to another thread and its reply back costs
//! more than all that is done for it, so a worker sees such queries through by itself:
//!
//! ```text
//! queries --> socket --.                      .--> source (an upstream's socket) --> wakes its query
//!                      |--> epoll --> worker -+--> the batch of queries
//! other threads -------'  only while          '--> futures that were woken --> replies
//!                         something waits
//! ```
//!
//! A [`Reactor`] belongs to one thread. It polls futures, which may wait for anything: what wakes them from other threads
//! (a timer of the runtime, say) finds its way by an eventfd. What they wait for on this thread is a [`Source`], registered
//! with [`add`]. While nothing waits, the worker blocks in its own `recvmmsg` and none of this costs anything.

mod source;

#[cfg(target_os = "linux")]
mod tasks;
#[cfg(target_os = "linux")]
mod watch;

/// The twin for other kernels; here to see that it can be built.
#[cfg(any(not(target_os = "linux"), test))]
pub mod absent;

#[cfg(not(target_os = "linux"))]
pub use absent::{Reactor, add, is_here, note_due, note_unsent, remove, round};
pub use source::{Fate, Source, Token, Waits};
#[cfg(target_os = "linux")]
pub use tasks::Reactor;
#[cfg(target_os = "linux")]
pub use watch::{add, is_here, note_due, note_unsent, remove, round};

pub use crate::net::batch::{Inbox, send_some};

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
