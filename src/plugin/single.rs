//! Options that hold for the whole process: any server block may say them, but all must say the same.

use crate::corefile::diagnostic::{Diagnostic, Faults};
use crate::corefile::tree::{Corefile, Directive};

/// Plugin and option.
const OPTIONS: &[(&str, &str)] = &[("cache", "memory")];

/// Reports each that says something else than the first.
pub(super) fn check(corefile: &Corefile, faults: &mut Faults) {
    for (plugin, name) in OPTIONS {
        let directives = corefile.blocks.iter().flat_map(|block| &block.directives);
        let mut options = directives
            .filter(|directive| directive.name.text == *plugin)
            .flat_map(Directive::options)
            .filter(|option| option.name.text == *name);
        let Some(first) = options.next() else {
            continue;
        };
        for option in options.filter(|option| said(option) != said(first)) {
            faults.push(Diagnostic::error(
                option.span(),
                format!(
                    "`{name}` is `{}` here and `{}` before",
                    said(option),
                    said(first)
                ),
                "one for the whole process",
            ));
        }
    }
}

fn said(option: &Directive) -> String {
    let words: Vec<&str> = option.args.iter().map(|word| word.text.as_str()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::corefile::parser;

    fn faults(text: &str) -> Vec<String> {
        let (corefile, mut faults) = parser::parse(Path::new("Corefile"), text.as_bytes());
        check(&corefile, &mut faults);
        let shown = |fault: &Diagnostic| {
            let place = &text[fault.span.start..fault.span.end];
            format!("{} @ {place}", fault.message)
        };
        faults.iter().map(shown).collect()
    }

    #[test]
    fn what_is_one_for_the_process_is_the_same_in_all_blocks() {
        let block = |zone: &str, option: &str| format!("{zone} {{\n cache {{\n{option}\n}}\n}}\n");
        let same = block("a", " memory 64Mi") + &block("b", "") + &block("c", " memory 64Mi");
        assert!(faults(&same).is_empty());
        let other = same + &block("d", " memory 8Mi");
        assert_eq!(
            faults(&other),
            ["`memory` is `8Mi` here and `64Mi` before @ memory 8Mi"]
        );
    }
}
