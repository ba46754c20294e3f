use fingerpost::wire::HEADER_LEN;
use fingerpost::wire::name::{NAME_MAX, Name, NameBuf, NameRef};
use fingerpost::wire::record::expand_name;
use hickory_proto::rr::Name as Oracle;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable};

use crate::fingerprint;

/// The first octet picks the form that the rest is read as.
pub fn run(data: &[u8]) -> u64 {
    let Some((form, rest)) = data.split_first() else {
        return 0;
    };
    match form % 3 {
        0 => wire(rest),
        1 => std::str::from_utf8(rest).map_or(1, text),
        _ => compressed(rest),
    }
}

/// An uncompressed name: what both codecs take, and that every form of it leads back to it.
fn wire(octets: &[u8]) -> u64 {
    let ours = NameRef::from_wire(octets);
    let theirs = Oracle::read(&mut BinDecoder::new(octets));
    let Ok(name) = ours else {
        let pointed = octets.iter().any(|&octet| octet >= 0xc0);
        assert!(
            theirs.is_err() || pointed,
            "hickory reads a name where we do not"
        );
        return fingerprint(("refused", theirs.is_ok()));
    };
    if let Ok(theirs) = theirs {
        assert_eq!(theirs.to_bytes().expect("it was read"), name.as_wire());
    }
    there_and_back(name);
    fingerprint(("wire", name.label_count(), name.len()))
}

/// Presentation form.
fn text(text: &str) -> u64 {
    let Ok(name) = Name::from_text(text) else {
        return fingerprint("no name");
    };
    there_and_back(name.as_ref());
    // hickory reads `\DDD` as octal and keeps no escaped control character, so only plain text can be compared.
    let plain = text
        .bytes()
        .all(|octet| octet.is_ascii_alphanumeric() || octet == b'.');
    if plain && let Ok(mut theirs) = Oracle::from_ascii(text) {
        theirs.set_fqdn(true);
        assert_eq!(
            theirs.to_bytes().expect("it was read"),
            name.as_ref().as_wire()
        );
    }
    fingerprint(("text", name.as_ref().label_count(), plain))
}

/// A name that may be compressed, somewhere in a message.
fn compressed(message: &[u8]) -> u64 {
    let Some((&at, message)) = message.split_first() else {
        return 2;
    };
    let at = HEADER_LEN + usize::from(at);
    let Ok((name, end)) = expand_name(message, at) else {
        return fingerprint("broken");
    };
    assert!(end > at && end <= message.len());
    let mut decoder = BinDecoder::new(message);
    decoder
        .read_slice(at)
        .expect("the name stands behind these octets");
    let theirs = Oracle::read(&mut decoder);
    if let Ok(theirs) = &theirs {
        assert_eq!(
            theirs.to_bytes().expect("it was read"),
            name.as_ref().as_wire()
        );
        assert_eq!(decoder.index(), end);
    }
    there_and_back(name.as_ref());
    fingerprint((
        "expanded",
        name.as_ref().label_count(),
        end - at,
        theirs.is_ok(),
    ))
}

fn there_and_back(name: NameRef<'_>) {
    assert!(name.len() <= NAME_MAX);
    let shown = name.to_string();
    assert!(
        shown
            .bytes()
            .all(|octet| (0x21..0x7f).contains(&octet) || octet == b' ')
    );
    let again = Name::from_text(&shown).expect("what we show is a name");
    assert_eq!(again.as_ref().as_wire(), name.as_wire(), "{shown}");
    let mut built = NameBuf::new();
    for label in name.labels() {
        built
            .push_label(label)
            .expect("labels of a name make a name");
    }
    assert_eq!(built.as_ref().as_wire(), name.as_wire());
    assert_eq!(
        name.to_lower().as_ref(),
        name,
        "letter case does not matter"
    );
    let mut suffix = Some(name);
    while let Some(parent) = suffix {
        assert_eq!(name.prefix_len(parent), Some(name.len() - parent.len()));
        suffix = parent.parent();
    }
}
