//! Cases as data: `NUMBER QNAME TYPE: OUTCOME`, in blocks that each say what server is asked.

use fingerpost::wire::code::RecordType;

use crate::in_process::{Server, Shown, shown};

/// One line of a file of cases.
pub(crate) struct Case<'c> {
    pub(crate) number: &'c str,
    pub(crate) qname: &'c str,
    pub(crate) qtype: RecordType,
    pub(crate) outcome: &'c str,
}

/// Asks every case of a file and gives their number back. `start` makes the server of a block; `name` makes a name of
/// the file one of DNS; `expected` says what comes back, given the block.
pub(crate) fn run(
    cases: &str,
    start: impl Fn(&str) -> Server,
    name: impl Fn(&str) -> String,
    expected: impl Fn(&Case<'_>, &str) -> Shown,
) -> usize {
    let (mut block, mut running) = ("", None);
    let (mut asked, mut different) = (0, Vec::new());
    let lines = cases.lines();
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(text) = line.strip_prefix("block ") {
            block = text;
            running = Some(start(text));
            continue;
        }
        let (question, outcome) = line.split_once(": ").unwrap();
        let words: Vec<&str> = question.split(' ').collect();
        let [number, text, qtype] = words[..] else {
            panic!("`{question}` is no question")
        };
        let case = Case {
            number,
            qname: &name(text),
            qtype: RecordType::from_mnemonic(qtype).unwrap(),
            outcome: outcome.trim(),
        };
        let server = running.as_ref().expect("a block stands first");
        let got = shown(&server.ask(case.qname, case.qtype));
        let expected = expected(&case, block);
        asked += 1;
        if got != expected {
            let Case { number, qname, .. } = case;
            different.push(format!(
                "{number} {qname} {qtype}\n  expected {expected:?}\n  got      {got:?}"
            ));
        }
    }
    assert!(
        different.is_empty(),
        "{} of {asked} cases differ:\n{}",
        different.len(),
        different.join("\n")
    );
    asked
}

/// One record of a file, `[OWNER] [@TTL] TYPE RDATA`, as replies show it.
pub(crate) fn record(text: &str, qname: &str, ttl: &str, name: &impl Fn(&str) -> String) -> String {
    let mut words = text.split_whitespace().peekable();
    let is_owner =
        |word: &&str| !word.starts_with('@') && RecordType::from_mnemonic(word).is_none();
    let owner = words.next_if(is_owner).map_or(qname.to_owned(), name);
    let ttl = words
        .next_if(|word| word.starts_with('@'))
        .map_or(ttl, |word| &word[1..]);
    let kind = words.next().unwrap();
    let mut rdata: Vec<String> = words.map(str::to_owned).collect();
    let names: &[usize] = match kind {
        "CNAME" | "PTR" | "NS" => &[0],
        "SRV" => &[3],
        "SOA" => &[0, 1],
        _ => &[],
    };
    for &index in names {
        rdata[index] = name(&rdata[index]);
    }
    format!("{owner} {ttl} {kind} {}", rdata.join(" "))
}

/// The sections of `ANSWER | ANSWER ; ADDITIONAL | ADDITIONAL`, each sorted.
pub(crate) fn sections(
    text: &str,
    qname: &str,
    ttl: &str,
    name: &impl Fn(&str) -> String,
) -> [Vec<String>; 3] {
    let mut sections: [Vec<String>; 3] = Default::default();
    let (answer, additional) = text.split_once(" ; ").unwrap_or((text, ""));
    for (section, text) in [(0, answer), (2, additional)] {
        let records = text.split(" | ").filter(|text| !text.is_empty());
        sections[section] = records.map(|text| record(text, qname, ttl, name)).collect();
        sections[section].sort();
    }
    sections
}
