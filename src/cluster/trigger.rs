//! What a change was caused by, and when: the time stamp that the slice controller leaves (RFC 3339).

use std::num::NonZeroU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time of a cause, as it is kept of each slice: 8 octets, those of none included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::cluster) struct Stamp(Option<NonZeroU64>);

impl Stamp {
    /// Of a time stamp. One that is none was told of when it came, and is not kept.
    pub(in crate::cluster) fn of(text: Option<&str>) -> Self {
        let since = text
            .and_then(parse_time)
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        // Up to the year 2554.
        let nanoseconds = since.and_then(|since| u64::try_from(since.as_nanos()).ok());
        Self(nanoseconds.and_then(NonZeroU64::new))
    }

    pub(in crate::cluster) fn time(self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_nanos(self.0?.get()))
    }
}

/// Reads `2024-01-02T03:04:05.678Z`, or with an offset such as `+01:00`; none for anything else or before 1970.
pub(in crate::cluster) fn parse_time(text: &str) -> Option<SystemTime> {
    let octets = text.as_bytes();
    let fixed = octets.get(..19)?;
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators
        .iter()
        .any(|&(at, separator)| fixed[at] != separator)
    {
        return None;
    }
    let number = |from: usize, to: usize| digits(octets.get(from..to)?);
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let mut rest = &octets[19..];
    let mut nanoseconds = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let end = fraction.iter().position(|octet| !octet.is_ascii_digit())?;
        if end == 0 {
            return None;
        }
        // What is finer than a nanosecond is cut off.
        let shown = end.min(9);
        let power = u32::try_from(9 - shown).ok()?;
        nanoseconds = u32::try_from(digits(&fraction[..shown])?).ok()? * 10u32.pow(power);
        rest = &fraction[end..];
    }
    let offset = offset_seconds(rest)?;
    let seconds =
        days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    UNIX_EPOCH.checked_add(Duration::new(u64::try_from(seconds).ok()?, nanoseconds))
}

fn digits(octets: &[u8]) -> Option<i64> {
    octets.iter().try_fold(0, |value, octet| {
        octet
            .is_ascii_digit()
            .then(|| value * 10 + i64::from(octet - b'0'))
    })
}

fn offset_seconds(zone: &[u8]) -> Option<i64> {
    match zone {
        b"Z" => Some(0),
        &[sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let seconds = digits(&[h1, h2])? * 3600 + digits(&[m1, m2])? * 60;
            Some(if sign == b'+' { seconds } else { -seconds })
        }
        _ => None,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar, counted in years that start in March.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_stamp_is_read_with_fraction_and_offset() {
        let since = |text| {
            Some(
                parse_time(text)?
                    .duration_since(UNIX_EPOCH)
                    .expect("after 1970"),
            )
        };
        assert_eq!(since("1970-01-01T00:00:00Z"), Some(Duration::ZERO));
        assert_eq!(
            since("2000-03-01T00:00:00Z"),
            Some(Duration::from_secs(951_868_800))
        );
        assert_eq!(
            since("2024-02-29T12:34:56Z"),
            Some(Duration::from_secs(1_709_210_096))
        );
        assert_eq!(
            since("2024-02-29T13:34:56+01:00"),
            Some(Duration::from_secs(1_709_210_096))
        );
        assert_eq!(
            since("2024-02-29T12:34:56.25Z"),
            Some(Duration::from_millis(1_709_210_096_250))
        );
        assert_eq!(
            since("2024-02-29T12:34:56.1234567899Z"),
            Some(Duration::new(1_709_210_096, 123_456_789))
        );
    }

    #[test]
    fn what_is_no_time_stamp_is_none() {
        for wrong in [
            "",
            "now",
            "2024-02-29",
            "2024-02-29T12:34:56",
            "2024-02-29 12:34:56Z",
            "2024-13-29T12:34:56Z",
            "2024-02-29T24:34:56Z",
            "2024-02-29T12:34:56.Z",
            "2024-02-29T12:34:56.",
            "2024-02-29T12:34:56+0100",
            "2024-02-29T12:34:5é",
            "1969-12-31T23:59:59Z",
        ] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
    }
}
