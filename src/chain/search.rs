//! Where the resolver of a client looks for a name.
//!
//! ```text
//! asked:      target.example.com.shop.svc.cluster.local.
//!             '------ base -----''-- first element ----'
//! looked for: target.example.com.shop.svc.cluster.local.
//!             target.example.com.svc.cluster.local.
//!             target.example.com.cluster.local.
//!             target.example.com.corp.example.
//!             target.example.com.
//! ```

use crate::wire::name::{Name, NameBuf, NameRef, ROOT};

/// The search path of a client, for a question that its first element ends. The last element is empty: the name as it
/// was typed.
#[derive(Clone, Copy, Debug)]
pub struct SearchPath<'p> {
    /// Octets of QNAME in front of the first element: at least one label.
    pub base: usize,
    /// Where in QNAME the next two elements start, if it ends in those as well.
    pub within: Option<[usize; 2]>,
    /// The elements after them.
    pub others: &'p [Name],
}

impl<'p> SearchPath<'p> {
    /// The names to look for after QNAME itself, in order: its base as the client spelled it, the elements in lower
    /// case. `lower` is QNAME in lower case. A name that would be too long is left out: nothing can have it.
    pub fn further(self, qname: NameRef<'p>, lower: NameRef<'p>) -> impl Iterator<Item = NameBuf> {
        let mut base = NameBuf::new();
        let mut left = self.base;
        for label in qname.labels() {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(1 + label.len());
            base.push_label(label)
                .expect("QNAME is no longer than a name");
        }
        let suffix = move |start: usize| {
            NameRef::from_wire(&lower.as_wire()[start..]).expect("an element starts at a label")
        };
        let within = self.within.into_iter().flatten().map(suffix);
        let elements = within.chain(self.others.iter().map(Name::as_ref));
        elements.chain([ROOT]).filter_map(move |element| {
            let mut name = base.clone();
            name.push_name(element).ok().map(|()| name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_text(text).expect("a name")
    }

    fn further(
        qname: &str,
        within: Option<[usize; 2]>,
        base: usize,
        others: &[Name],
    ) -> Vec<String> {
        let qname = name(qname);
        let lower = qname.to_lower();
        let path = SearchPath {
            base,
            within,
            others,
        };
        let names = path.further(qname.as_ref(), lower.as_ref());
        names.map(|name| name.as_ref().to_string()).collect()
    }

    #[test]
    fn the_base_is_looked_for_under_each_element_and_at_last_alone() {
        let others = [name("corp.example")];
        assert_eq!(
            further("A.b.Shop.svc.Cluster.local", Some([9, 13]), 4, &others),
            [
                "A.b.svc.cluster.local.",
                "A.b.cluster.local.",
                "A.b.corp.example.",
                "A.b."
            ]
        );
        assert_eq!(further("a.b.c", None, 2, &[]), ["a."]);
    }

    #[test]
    fn a_name_that_would_be_too_long_is_left_out() {
        let others = [name(&"a.".repeat(126)), name("b")];
        assert_eq!(further("xx.c", None, 3, &others), ["xx.b.", "xx."]);
    }
}
