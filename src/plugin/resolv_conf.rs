//! The search path of a resolv.conf (resolv.conf(5)).

use std::path::Path;

use crate::wire::name::Name;

/// Elements that a search path may have; Kubernetes allows as many in a Pod.
pub(crate) const SEARCH_MAX: usize = 32;

/// Octets that a file may have.
const FILE_MAX: u64 = 64 * 1024;

/// Reads the search path of a file, in lower case. An error is one line that names what is wrong with it.
pub(crate) fn read(path: &Path) -> Result<Vec<Name>, String> {
    let error = |why: &dyn std::fmt::Display| format!("`{}`: {why}", path.display());
    let length = std::fs::metadata(path).map_err(|why| error(&why))?.len();
    if length > FILE_MAX {
        return Err(error(&format_args!("more than {FILE_MAX} octets")));
    }
    let text = std::fs::read(path).map_err(|why| error(&why))?;
    search_of(&String::from_utf8_lossy(&text)).map_err(|why| error(&why))
}

/// The last `search` or `domain` line counts.
fn search_of(text: &str) -> Result<Vec<Name>, String> {
    let mut search = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let most = match words.next() {
            Some("search") => usize::MAX,
            Some("domain") => 1,
            _ => continue,
        };
        let name = |word: &str| match Name::from_text(word) {
            Ok(name) => Ok(name.to_lower()),
            Err(why) => Err(format!("`{word}` is not a name: {why}")),
        };
        // The root is what every path ends in.
        let elements = words.take(most).filter(|&word| word != ".");
        search = elements.map(name).collect::<Result<_, _>>()?;
    }
    if search.len() > SEARCH_MAX {
        return Err(format!("more than {SEARCH_MAX} search domains"));
    }
    Ok(search)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(text: &str) -> Result<String, String> {
        let names = search_of(text)?;
        Ok(names
            .iter()
            .map(Name::to_string)
            .collect::<Vec<_>>()
            .join(" "))
    }

    #[test]
    fn the_last_line_that_names_a_path_counts() {
        let text = "# search x\nnameserver 192.0.2.1\nsearch a.b\ndomain C.D more\n";
        assert_eq!(search(text), Ok("c.d.".into()));
        let text = "domain c\nsearch Shop.svc.cluster.local\tsvc.cluster.local. .\n;search x";
        let expected = "shop.svc.cluster.local. svc.cluster.local.";
        assert_eq!(search(text), Ok(expected.into()));
        assert_eq!(search(""), Ok(String::new()));
    }

    #[test]
    fn what_is_no_path_is_told() {
        assert_eq!(
            search("search a..b"),
            Err("`a..b` is not a name: a label may not be empty".into())
        );
        let long = format!("search {}", "a ".repeat(SEARCH_MAX + 1));
        assert_eq!(search(&long), Err("more than 32 search domains".into()));
    }
}
