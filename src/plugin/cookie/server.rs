//! Server cookies as all implementations make them (RFC 9018), so that replicas of any kind can share a secret.
//!
//! ```text
//! client cookie (8) | version 1 | reserved (3) | time (4) | hash (8)
//!                     '-- server cookie, 16 octets ----------------'
//! hash = SipHash-2-4 of all that stands before it and the client's address, with the secret as its key
//! ```

use std::fmt;
use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

/// Octets of a client cookie.
pub(super) const CLIENT_LEN: usize = 8;

/// Octets of both cookies.
pub(super) const COOKIE_LEN: usize = 24;

/// Octets of a COOKIE option that holds a server cookie (RFC 7873, section 4).
const LONG: std::ops::RangeInclusive<usize> = 16..=40;

/// VERSION and Reserved.
const VERSION: [u8; 4] = [1, 0, 0, 0];

/// Seconds for which a cookie is good (RFC 9018, section 4.3).
const AGE_MAX: u32 = 3600;

/// Seconds after which a good cookie is renewed all the same.
const AGE_FRESH: u32 = 1800;

/// Seconds that the clock of the replica which made it may be ahead of ours.
const AHEAD_MAX: u32 = 300;

/// Who else knows it can make our cookies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Secret(pub(super) [u8; 16]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// A length that no cookie has (RFC 7873, section 5.2.2).
    Malformed,
    /// Its own cookie only.
    New,
    /// A server cookie that we, or who shares our secret, made for this client not long ago.
    Valid,
    /// Some other server cookie.
    Invalid,
}

/// Looks at what a client at `address` sent, and makes the cookie of the reply. `now` is seconds since 1970.
pub(super) fn answer(
    secrets: &[Secret],
    address: IpAddr,
    sent: &[u8],
    now: u32,
) -> (Sent, [u8; COOKIE_LEN]) {
    let mut cookie = [0; COOKIE_LEN];
    let Some(client) = sent.get(..CLIENT_LEN) else {
        return (Sent::Malformed, cookie);
    };
    if sent.len() != CLIENT_LEN && !LONG.contains(&sent.len()) {
        return (Sent::Malformed, cookie);
    }
    cookie[..CLIENT_LEN].copy_from_slice(client);
    let mut state = if sent.len() == CLIENT_LEN {
        Sent::New
    } else {
        Sent::Invalid
    };
    if let Ok(whole) = <[u8; COOKIE_LEN]>::try_from(sent)
        && let Some(place) = secrets
            .iter()
            .position(|secret| is_ours(secret, address, &whole))
        && let Some(age) = age(&whole, now)
    {
        state = Sent::Valid;
        // One made with an old secret is renewed, so that the old one can go.
        if age <= AGE_FRESH && place == 0 {
            return (state, whole);
        }
    }
    cookie[8..12].copy_from_slice(&VERSION);
    cookie[12..16].copy_from_slice(&now.to_be_bytes());
    if let Some(secret) = secrets.first() {
        let hash = hash(secret, address, &cookie);
        cookie[16..].copy_from_slice(&hash);
    }
    (state, cookie)
}

fn is_ours(secret: &Secret, address: IpAddr, cookie: &[u8; COOKIE_LEN]) -> bool {
    // In the same time wherever they differ: how long it takes tells a forger nothing.
    let expected = u64::from_ne_bytes(hash(secret, address, cookie));
    let found = cookie[16..].try_into().map(u64::from_ne_bytes);
    cookie[8] == VERSION[0] && found.is_ok_and(|found| found ^ expected == 0)
}

/// Seconds since it was made; none if it is too old, or from the future. Times are serial numbers (RFC 1982).
fn age(cookie: &[u8; COOKIE_LEN], now: u32) -> Option<u32> {
    let made = cookie[12..16].try_into().map(u32::from_be_bytes).ok()?;
    let ahead = made.wrapping_sub(now);
    if ahead <= AHEAD_MAX {
        return Some(0);
    }
    Some(now.wrapping_sub(made)).filter(|&age| age <= AGE_MAX)
}

fn hash(secret: &Secret, address: IpAddr, cookie: &[u8; COOKIE_LEN]) -> [u8; 8] {
    let mut hasher = SipHasher24::new_with_key(&secret.0);
    hasher.write(&cookie[..16]);
    match address {
        IpAddr::V4(address) => hasher.write(&address.octets()),
        IpAddr::V6(address) => hasher.write(&address.octets()),
    }
    hasher.finish().to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::cookie::config::from_hex;

    const SECRET: &str = "e5e973e5a6b2a43f48e7dc849e37bfcf";

    fn secret(hex: &str) -> Secret {
        Secret(octets(hex).try_into().expect("16 octets"))
    }

    fn octets(hex: &str) -> Vec<u8> {
        from_hex(hex).expect("hexadecimal digits")
    }

    fn ask(secrets: &[&str], address: &str, sent: &str, now: u32) -> (Sent, Vec<u8>) {
        let secrets: Vec<Secret> = secrets.iter().map(|hex| secret(hex)).collect();
        let address = address.parse().expect("an address");
        let (state, cookie) = answer(&secrets, address, &octets(sent), now);
        (state, cookie.to_vec())
    }

    /// RFC 9018, appendix A.
    #[test]
    fn cookies_are_those_of_the_standard() {
        let learned = "2464c4abcf10c957010000005cf79f111f8130c3eee29480";
        let renewed = "2464c4abcf10c957010000005cf7a871d4a564a1442aca77";
        let other = "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5";
        for (secrets, address, sent, now, expected) in [
            // A.1: a new one.
            (
                &[SECRET][..],
                "198.51.100.100",
                "2464c4abcf10c957",
                0x5cf7_9f11,
                (Sent::New, learned),
            ),
            // A.2: 40 minutes later it is renewed.
            (
                &[SECRET],
                "198.51.100.100",
                learned,
                0x5cf7_a871,
                (Sent::Valid, renewed),
            ),
            // A.3: what stands in Reserved is hashed as it came. By the time of the example's reply an hour has passed
            // (section 4.3), so it shows twice: a second later it is good,
            (
                &[SECRET],
                "203.0.113.203",
                other,
                0x5cf7_8f72,
                (Sent::Valid, other),
            ),
            // and then the cookie of the reply is that of the example.
            (
                &[SECRET],
                "203.0.113.203",
                other,
                0x5cf7_a9ac,
                (
                    Sent::Invalid,
                    "fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e",
                ),
            ),
            // A.4: made with the secret before, for an IPv6 address.
            (
                &[
                    "445536bcd2513298075a5d379663c962",
                    "dd3bdf9344b678b185a6f5cb60fca715",
                ],
                "2001:db8:220:1:59de:d0f4:8769:82b8",
                "22681ab97d52c298010000005cf7c57926556bd0934c72f8",
                0x5cf7_c609,
                (
                    Sent::Valid,
                    "22681ab97d52c298010000005cf7c609a6bb79d16625507a",
                ),
            ),
        ] {
            let (state, cookie) = ask(secrets, address, sent, now);
            assert_eq!(state, expected.0, "{sent}");
            assert_eq!(cookie, octets(expected.1), "{cookie:02x?}");
        }
    }

    #[test]
    fn a_cookie_is_kept_for_half_an_hour_and_good_for_one() {
        let now = 1_700_000_000;
        let (_, cookie) = ask(&[SECRET], "192.0.2.1", "0102030405060708", now);
        let hex: String = cookie.iter().map(|octet| format!("{octet:02x}")).collect();
        for (later, expected, same) in [
            (0, Sent::Valid, true),
            (1800, Sent::Valid, true),
            (1801, Sent::Valid, false),
            (3600, Sent::Valid, false),
            (3601, Sent::Invalid, false),
            // Our clock is behind that of the replica which made it.
            (-300, Sent::Valid, true),
            (-301, Sent::Invalid, false),
        ] {
            let then = now.wrapping_add_signed(later);
            let (state, again) = ask(&[SECRET], "192.0.2.1", &hex, then);
            assert_eq!(
                (state, again == cookie),
                (expected, same),
                "{later} s later"
            );
        }
    }

    #[test]
    fn a_cookie_of_another_client_address_or_secret_is_invalid() {
        let now = 1_700_000_000;
        let (_, cookie) = ask(&[SECRET], "192.0.2.1", "0102030405060708", now);
        let hex: String = cookie.iter().map(|octet| format!("{octet:02x}")).collect();
        let other = "dd3bdf9344b678b185a6f5cb60fca715";
        assert_eq!(ask(&[SECRET], "192.0.2.2", &hex, now).0, Sent::Invalid);
        assert_eq!(ask(&[other], "192.0.2.1", &hex, now).0, Sent::Invalid);
        let stranger = hex.replacen("01", "ff", 1);
        assert_eq!(ask(&[SECRET], "192.0.2.1", &stranger, now).0, Sent::Invalid);
    }

    #[test]
    fn lengths_that_no_cookie_has_are_malformed() {
        for (length, expected) in [
            (0, Sent::Malformed),
            (7, Sent::Malformed),
            (8, Sent::New),
            (9, Sent::Malformed),
            (15, Sent::Malformed),
            (16, Sent::Invalid),
            (40, Sent::Invalid),
            (41, Sent::Malformed),
        ] {
            let sent = "00".repeat(length);
            assert_eq!(
                ask(&[SECRET], "192.0.2.1", &sent, 1).0,
                expected,
                "{length}"
            );
        }
    }
}
