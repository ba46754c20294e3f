//! What is committed of an earlier count.

/// Above this many percent of the baseline a count fails.
const TOLERANCE: u64 = 105;

/// Instructions of one round of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    pub case: String,
    pub instructions: u64,
}

/// All cases, and with which compiler they were counted.
#[derive(Debug, PartialEq, Eq)]
pub struct Baseline {
    pub compiler: String,
    pub counts: Vec<Count>,
}

const HEAD: &str = "\
# Instructions of one round, by case: `cargo xtask bench instructions` compares and fails above +5 %.
# A new baseline (`--write yes`) is a commit of its own, with its reason.
";

impl Baseline {
    /// As it stands in the file.
    pub fn text(&self) -> String {
        let lines = self
            .counts
            .iter()
            .map(|Count { case, instructions }| format!("{instructions:>9}  {case}\n"));
        format!("{HEAD}{}\n{}", self.compiler, lines.collect::<String>())
    }

    /// Reads such a file.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let compiler = lines.next().unwrap_or_default().to_owned();
        let counts = lines
            .map(|line| {
                let (instructions, case) = line.trim_start().split_once("  ")?;
                Some(Count {
                    case: case.to_owned(),
                    instructions: instructions.parse().ok().filter(|&count| count != 0)?,
                })
            })
            .collect::<Option<_>>()
            .ok_or("`benches/instructions.txt`: a line is no number and case")?;
        Ok(Self { compiler, counts })
    }

    pub fn of(&self, case: &str) -> Option<u64> {
        let count = self.counts.iter().find(|count| count.case == case)?;
        Some(count.instructions)
    }

    /// What is wrong with these counts: too many, or not the same cases.
    pub fn faults(&self, counts: &[Count]) -> Vec<String> {
        let dearer = counts.iter().filter_map(|count| {
            let Count { case, instructions } = count;
            match self.of(case) {
                None => Some(format!("`{case}` is not in the baseline")),
                Some(before) if instructions * 100 > before * TOLERANCE => {
                    Some(format!("`{case}` takes {instructions} instead of {before}"))
                }
                Some(_) => None,
            }
        });
        let is_missing = |known: &&Count| counts.iter().all(|count| count.case != known.case);
        let missing = self.counts.iter().filter(is_missing);
        let missing = missing.map(|known| format!("`{}` was not counted", known.case));
        dearer.chain(missing).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(&str, u64)]) -> Vec<Count> {
        let count = |&(case, instructions): &(&str, u64)| Count {
            case: case.to_owned(),
            instructions,
        };
        of.iter().map(count).collect()
    }

    fn baseline() -> Baseline {
        Baseline {
            compiler: "rustc 1.95.0".into(),
            counts: counts(&[("A of a ClusterIP", 4000), ("parse", 100)]),
        }
    }

    #[test]
    fn a_baseline_reads_what_it_wrote() {
        assert_eq!(Baseline::parse(&baseline().text()), Ok(baseline()));
        assert!(Baseline::parse("rustc\nmany  parse\n").is_err());
        assert!(Baseline::parse("rustc\n0  parse\n").is_err());
    }

    #[test]
    fn more_than_five_percent_above_is_a_fault_and_so_is_another_set_of_cases() {
        let faults = |of| baseline().faults(&counts(of));
        let none: [String; 0] = [];
        assert_eq!(faults(&[("A of a ClusterIP", 4200), ("parse", 50)]), none);
        assert_eq!(
            faults(&[("A of a ClusterIP", 4201), ("parse", 100)]),
            ["`A of a ClusterIP` takes 4201 instead of 4000"]
        );
        assert_eq!(
            faults(&[("A of a ClusterIP", 1), ("PTR", 1)]),
            ["`PTR` is not in the baseline", "`parse` was not counted"]
        );
    }
}
