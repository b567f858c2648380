//! What a figure was measured on.

use std::process::Command;

/// The machine and the state of the source.
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub kernel: String,
    pub rustc: String,
    pub revision: String,
    pub date: String,
}

impl Machine {
    /// Looks.
    pub fn here() -> Machine {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Machine {
            processor: model.map_or("unknown", |(_, name)| name.trim()).to_string(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: said(&["uname", "-sr"]),
            rustc: said(&["rustc", "--version"]),
            revision: said(&["git", "describe", "--always", "--dirty", "--abbrev=12"]),
            date: said(&["date", "-u", "+%Y-%m-%d %H:%M UTC"]),
        }
    }

    /// As lines of a Markdown list.
    pub fn markdown(&self) -> String {
        format!(
            "- Machine: {}, {} cores; {}\n- Compiler: {}\n- Revision: {}\n- Date: {}\n",
            self.processor, self.cores, self.kernel, self.rustc, self.revision, self.date
        )
    }
}

/// The first line that a command prints, or that it said nothing.
fn said(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).output().ok().filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("").to_string());
    text.filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".into())
}

/// Puts `generated` between the markers `<!-- begin NAME -->` and `<!-- end NAME -->` of a text. `None`: they are not
/// there, or not in order.
pub fn between_markers(text: &str, name: &str, generated: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- begin {name} -->"), format!("<!-- end {name} -->"));
    let start = text.find(&begin)? + begin.len();
    let stop = start + text[start..].find(&end)?;
    Some(format!("{}\n\n{}\n\n{}", &text[..start], generated.trim(), &text[stop..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_generated_replaces_only_what_is_between_the_markers() {
        let text = "# T\n<!-- begin x -->\nold\n<!-- end x -->\nrest\n";
        let new = between_markers(text, "x", "new\n").unwrap();
        assert_eq!(new, "# T\n<!-- begin x -->\n\nnew\n\n<!-- end x -->\nrest\n");
        assert_eq!(between_markers(&new, "x", "new").unwrap(), new, "again, it is the same");
        assert_eq!(between_markers("<!-- end x --> <!-- begin x -->", "x", "new"), None);
    }

    #[test]
    fn a_machine_has_cores_and_a_kernel() {
        let machine = Machine::here();
        assert!(machine.cores > 0 && machine.markdown().contains("Linux"));
    }
}
