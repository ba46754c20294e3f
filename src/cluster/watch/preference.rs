//! Which encoding is asked for.
//!
//! Protobuf costs a third of JSON, so one reply that came broken should not cost it for good: after some lists in JSON it
//! is tried again, and after each failure twice as many have to pass. A server that never gets it right is bothered less
//! and less, and each time costs one list that has to begin anew.

/// The most lists in JSON between two tries.
const LISTS_MAX: u32 = 64;

/// What one resource is asked for in.
#[derive(Debug, Default)]
pub(super) struct Preference {
    /// The server has no protobuf for it.
    json_always: bool,
    /// Lists in JSON still to come.
    lists_left: u32,
    /// Those between the last failure and the next try.
    lists: u32,
}

impl Preference {
    /// For a resource of which there is no protobuf.
    pub(super) fn json() -> Self {
        Self {
            json_always: true,
            ..Self::default()
        }
    }

    /// Whether to ask for JSON and nothing else.
    pub(super) fn is_json_only(&self) -> bool {
        self.json_always || self.lists_left > 0
    }

    /// What came cannot be read, or protobuf is refused.
    pub(super) fn failed(&mut self) {
        if !self.is_json_only() {
            self.lists = (2 * self.lists).clamp(1, LISTS_MAX);
            self.lists_left = self.lists;
        }
    }

    /// A list came whole.
    pub(super) fn listed(&mut self) {
        if self.is_json_only() {
            self.lists_left = self.lists_left.saturating_sub(1);
        } else {
            self.lists = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists in JSON until protobuf is asked for again.
    fn fail(preference: &mut Preference) -> u32 {
        preference.failed();
        let mut lists = 0;
        while preference.is_json_only() {
            preference.listed();
            lists += 1;
        }
        lists
    }

    #[test]
    fn after_each_failure_twice_as_many_lists_pass_up_to_a_bound() {
        let mut preference = Preference::default();
        let pauses: Vec<u32> = (0..9).map(|_| fail(&mut preference)).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        preference.listed();
        assert_eq!(fail(&mut preference), 1, "it was read once");
    }

    #[test]
    fn what_fails_in_json_is_not_protobufs_fault() {
        let mut preference = Preference::default();
        preference.failed();
        preference.failed();
        preference.listed();
        assert!(!preference.is_json_only());
    }

    #[test]
    fn where_there_is_no_protobuf_none_is_asked_for() {
        let mut preference = Preference::json();
        preference.listed();
        assert!(preference.is_json_only());
    }
}
