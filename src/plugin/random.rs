//! Numbers that nobody can be harmed by guessing: for a fair share, not for secrets.

use std::cell::Cell;

thread_local! {
    /// State of this worker's generator; 0 before the first number.
    static STATE: Cell<u64> = const { Cell::new(0) };
}

/// A number below `bound`, which is above 0 and below 2^32. Balance needs no secrecy, so a few cycles must do
/// (SplitMix64 from a seed of the operating system's).
pub(super) fn random_below(bound: usize) -> usize {
    let mut state = STATE.get();
    if state == 0 {
        // Without a seed every worker would shuffle alike, which does no harm but to the balance.
        state = getrandom::u64().unwrap_or(1) | 1;
    }
    state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(state);
    let mut mixed = state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    // A product instead of a division; its bias is below 2^-20 for as many records as a message can hold.
    let scaled = (u128::from(mixed) * bound as u128) >> 64;
    usize::try_from(scaled).expect("it is below `bound`")
}
