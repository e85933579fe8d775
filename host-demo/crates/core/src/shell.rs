//! Text that can be pasted into a shell.

/// A shell, as far as quoting and assigning differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// sh, and every shell that reads what sh reads.
    Posix,
    /// PowerShell, the usual shell of Windows.
    PowerShell,
}

impl Shell {
    /// The shell that people on this platform usually paste into.
    pub const HERE: Self = match cfg!(windows) {
        true => Self::PowerShell,
        false => Self::Posix,
    };

    /// One word, quoted where the shell would read it as something else.
    pub fn quote(self, word: &str) -> String {
        // In PowerShell, `@` begins an array and `%` is a command.
        let marks = match self {
            Self::Posix => "/._-+:@%=,",
            Self::PowerShell => r"/\._-+:=",
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || marks.contains(c);
        // `~` and `=` are special only where a word begins with them.
        if !word.is_empty() && word.chars().all(is_plain) && !word.starts_with('=') {
            return word.to_owned();
        }
        self.quote_always(word)
    }

    fn quote_always(self, word: &str) -> String {
        match self {
            Self::Posix => format!("'{}'", word.replace('\'', r"'\''")),
            // PowerShell takes typographic quotation marks for plain ones.
            Self::PowerShell => {
                let mut quoted = String::from("'");
                for c in word.chars() {
                    if matches!(c, '\'' | '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{201b}') {
                        quoted.push(c);
                    }
                    quoted.push(c);
                }
                quoted + "'"
            }
        }
    }

    /// A line that sets a variable of the environment.
    pub fn set(self, name: &str, value: &str) -> String {
        match self {
            Self::Posix => format!("export {name}={}", self.quote(value)),
            // An assignment's right side is an expression: without quotes a word is a command.
            Self::PowerShell => format!("$env:{name} = {}", self.quote_always(value)),
        }
    }

    /// What begins a line with a program in it.
    pub fn program(self, program: &str) -> String {
        let quoted = self.quote(program);
        match self {
            Self::PowerShell if quoted != program => format!("& {quoted}"),
            _ => quoted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Shell::{Posix, PowerShell};

    #[test]
    fn a_word_is_quoted_where_a_shell_reads_more_than_a_word() {
        for (word, posix, power_shell) in [
            ("/tmp/ca.pem", "/tmp/ca.pem", "/tmp/ca.pem"),
            (r"C:\ca.pem", r"'C:\ca.pem'", r"C:\ca.pem"),
            ("with blanks", "'with blanks'", "'with blanks'"),
            ("it's", r"'it'\''s'", "'it''s'"),
            ("$HOME", "'$HOME'", "'$HOME'"),
            ("", "''", "''"),
            ("~", "'~'", "'~'"),
            ("a;b&c", "'a;b&c'", "'a;b&c'"),
            ("\u{2019}", "'\u{2019}'", "'\u{2019}\u{2019}'"),
            ("a\nb", "'a\nb'", "'a\nb'"),
        ] {
            assert_eq!(Posix.quote(word), posix);
            assert_eq!(PowerShell.quote(word), power_shell);
        }
    }

    #[test]
    fn a_variable_and_a_program_have_the_shells_form() {
        assert_eq!(Posix.set("A", "b c"), "export A='b c'");
        assert_eq!(PowerShell.set("A", "b'c"), "$env:A = 'b''c'");
        assert_eq!(
            Posix.program("/my tools/host-demo"),
            "'/my tools/host-demo'"
        );
        assert_eq!(
            PowerShell.program(r"C:\my tools\host-demo.exe"),
            r"& 'C:\my tools\host-demo.exe'"
        );
        assert_eq!(PowerShell.program("host-demo"), "host-demo");
    }

    #[cfg(unix)]
    #[test]
    fn sh_reads_every_word_as_it_was() {
        for word in [
            "it's", "a\\b", "$(id)", "`id`", "a\"b", " ", "*", "é", "-n", "#", "!", "=ls",
        ] {
            let line = format!("printf '[%s]' {}", Posix.quote(word));
            let output = std::process::Command::new("sh")
                .args(["-c", &line])
                .output();
            let output = output.expect("there is a shell");
            assert_eq!(String::from_utf8_lossy(&output.stdout), format!("[{word}]"));
        }
    }
}
