//! A list that mostly has one member, which then takes no memory of its own.

use std::fmt;
use std::ops::Deref;

/// One, or any other number.
#[derive(Clone, PartialEq, Eq)]
pub enum Few<T> {
    /// The usual case.
    One(T),
    /// None, or several.
    Several(Box<[T]>),
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(several) => several,
        }
    }
}

/// As a list, like any other.
impl<T: fmt::Debug> fmt::Debug for Few<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::Several(Box::default())
    }
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(mut all: Vec<T>) -> Self {
        match (all.pop(), all.is_empty()) {
            (Some(one), true) => Self::One(one),
            (last, _) => Self::Several(all.into_iter().chain(last).collect()),
        }
    }
}

impl<T, const N: usize> From<[T; N]> for Few<T> {
    fn from(all: [T; N]) -> Self {
        Vec::from(all).into()
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(all: I) -> Self {
        let mut all = all.into_iter();
        match (all.next(), all.next()) {
            (None, _) => Self::default(),
            (Some(one), None) => Self::One(one),
            (Some(one), Some(two)) => Self::Several([one, two].into_iter().chain(all).collect()),
        }
    }
}

impl<'f, T> IntoIterator for &'f Few<T> {
    type Item = &'f T;
    type IntoIter = std::slice::Iter<'f, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::Few;

    #[test]
    fn a_list_is_the_same_whichever_way_it_came() {
        for length in 0..4u8 {
            let all: Vec<u8> = (0..length).collect();
            let few = Few::from(all.clone());
            assert_eq!(*few, *all);
            assert_eq!(format!("{few:?}"), format!("{all:?}"));
            assert_eq!(few, all.iter().copied().collect::<Few<u8>>());
            assert_eq!(matches!(few, Few::One(_)), length == 1);
        }
    }
}
