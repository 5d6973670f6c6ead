//! llama.cpp's grammar notation, turned into the Lark that the compiler reads.
//!
//! ```text
//! root   ::= answer ("," ws answer)*
//! answer ::= "yes" | "no"
//! ws     ::= [ \n]{0,4}
//! ```
//!
//! Rules that are not recursive become terminals, because a lexer walks a vocabulary far quicker than a parser does. Terminals
//! match as much as they can, so a grammar of which another reading would have stopped earlier allows less here than there,
//! and never more.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::{Error, Result};

/// Deepest nesting of parentheses, and of rules within rules that are not recursive.
const MAX_DEPTH: usize = 64;
/// Largest count of a repetition.
const MAX_REPEAT: u32 = 1 << 14;

/// The same grammar in Lark.
///
/// # Errors
/// `BadInput`, with the line.
pub(crate) fn to_lark(text: &str) -> Result<String> {
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, at: 0, names: HashMap::new(), rules: Vec::new() };
    while parser.at < tokens.len() {
        parser.rule()?;
    }
    let Parser { names, rules, .. } = parser;
    let Some(root) = names.get("root").copied() else {
        return Err(Error::bad_input("grammar: no rule is called `root`"));
    };
    if let Some((name, _)) = names.iter().filter(|(_, i)| rules[**i].is_none()).min_by_key(|(_, i)| **i) {
        return Err(Error::bad_input(format!("grammar: the rule `{name}` is used and not defined")));
    }
    let rules: Vec<Expr> = rules.into_iter().flatten().collect();
    let mut kinds = vec![None; rules.len()];
    (0..rules.len()).try_for_each(|i| is_regular(&rules, &mut kinds, i, 0).map(|_| ()))?;
    let names: Vec<String> = (0..)
        .zip(&kinds)
        .map(|(i, kind)| if *kind == Some(true) { format!("T{i}") } else { format!("r{i}") })
        .collect();
    let mut lark = format!("start: {}\n", names[root]);
    for (name, rule) in names.iter().zip(&rules) {
        let _ = write!(lark, "{name}: ");
        rule.write(&names, &mut lark);
        lark.push('\n');
    }
    Ok(lark)
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Name(String),
    Text(String),
    /// Ranges of characters, and whether all others are meant.
    Class(Vec<(char, char)>, bool),
    Repeat(u32, Option<u32>),
    Defines,
    Or,
    Open,
    Close,
}

#[derive(Debug, Clone)]
enum Expr {
    Text(String),
    Class(Vec<(char, char)>, bool),
    Rule(usize),
    Sequence(Vec<Expr>),
    Choice(Vec<Expr>),
    Repeat(Box<Expr>, u32, Option<u32>),
}

/// The words of a grammar, with their lines.
fn tokens(text: &str) -> Result<Vec<(Token, usize)>> {
    let mut chars = Chars { rest: text.chars(), line: 1 };
    let mut tokens = Vec::new();
    while let Some(c) = chars.next() {
        let line = chars.line;
        let token = match c {
            c if c.is_whitespace() => continue,
            '#' => {
                while chars.peek().is_some_and(|c| c != '\n') {
                    chars.next();
                }
                continue;
            }
            '"' => Token::Text(chars.text()?),
            '[' => chars.class()?,
            '.' => Token::Class(Vec::new(), true),
            '|' => Token::Or,
            '(' => Token::Open,
            ')' => Token::Close,
            '*' => Token::Repeat(0, None),
            '+' => Token::Repeat(1, None),
            '?' => Token::Repeat(0, Some(1)),
            '{' => chars.count()?,
            ':' if chars.take("::=") => Token::Defines,
            c if c.is_ascii_alphanumeric() || "-_".contains(c) => {
                let mut name = c.to_string();
                while let Some(c) = chars.peek().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)) {
                    name.push(c);
                    chars.next();
                }
                Token::Name(name)
            }
            other => return Err(chars.wrong(&format!("`{}` begins nothing", other.escape_default()))),
        };
        tokens.push((token, line));
    }
    Ok(tokens)
}

struct Chars<'a> {
    rest: std::str::Chars<'a>,
    line: usize,
}

impl Chars<'_> {
    fn wrong(&self, what: &str) -> Error {
        Error::bad_input(format!("grammar, line {}: {what}", self.line))
    }

    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.next();
        self.line += usize::from(c == Some('\n'));
        c
    }

    /// Takes the rest of a sign, whose first character was taken.
    fn take(&mut self, sign: &str) -> bool {
        sign.chars().skip(1).all(|c| self.next() == Some(c))
    }

    /// A character of a text or a class, after it was taken: what a backslash means.
    fn unescape(&mut self, c: char) -> Result<char> {
        if c != '\\' {
            return Ok(c);
        }
        let n_digits = match self.next() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(c @ ('\\' | '"' | '[' | ']' | '^' | '-')) => return Ok(c),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => return Err(self.wrong("a backslash before what it does not change")),
        };
        let digits: String = (0..n_digits).filter_map(|_| self.next()).collect();
        let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
        code.ok_or_else(|| self.wrong("a backslash before no character's number"))
    }

    fn text(&mut self) -> Result<String> {
        let mut text = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok(text),
                Some(c) => text.push(self.unescape(c)?),
                None => return Err(self.wrong("a text without its second quote")),
            }
        }
    }

    fn class(&mut self) -> Result<Token> {
        let is_negated = self.peek() == Some('^');
        if is_negated {
            self.next();
        }
        let mut ranges = Vec::new();
        loop {
            let from = match self.next() {
                Some(']') => return Ok(Token::Class(ranges, is_negated)),
                Some(c) => self.unescape(c)?,
                None => return Err(self.wrong("a class without its `]`")),
            };
            let mut ahead = self.rest.clone();
            let is_range = ahead.next() == Some('-') && ahead.next().is_some_and(|c| c != ']');
            let to = match is_range {
                true => {
                    self.next();
                    let c = self.next().unwrap_or_default();
                    self.unescape(c)?
                }
                false => from,
            };
            if to < from {
                return Err(self.wrong("a range that ends before it begins"));
            }
            ranges.push((from, to));
        }
    }

    /// `{2}`, `{2,}`, `{2,5}`, after the brace.
    fn count(&mut self) -> Result<Token> {
        let mut words = String::new();
        loop {
            match self.next() {
                Some('}') => break,
                Some(c) if c.is_ascii_digit() || c == ',' || c == ' ' => words.push(c),
                _ => return Err(self.wrong("a repetition that is no `{2}`, `{2,}` or `{2,5}`")),
            }
        }
        let number = |word: &str| {
            let n = word.trim().parse::<u32>().ok().filter(|n| *n <= MAX_REPEAT);
            n.ok_or_else(|| self.wrong(&format!("`{{{words}}}` repeats more than {MAX_REPEAT} times, or not a count")))
        };
        let (least, most) = match words.split_once(',') {
            None => (number(&words)?, Some(number(&words)?)),
            Some((least, most)) if most.trim().is_empty() => (number(least)?, None),
            Some((least, most)) => (if least.trim().is_empty() { 0 } else { number(least)? }, Some(number(most)?)),
        };
        match most.is_some_and(|most| most < least) {
            true => Err(self.wrong(&format!("`{{{words}}}` ends before it begins"))),
            false => Ok(Token::Repeat(least, most)),
        }
    }
}

struct Parser<'a> {
    tokens: &'a [(Token, usize)],
    at: usize,
    names: HashMap<String, usize>,
    /// By number; one that is only used so far is none.
    rules: Vec<Option<Expr>>,
}

impl Parser<'_> {
    fn wrong(&self, what: &str) -> Error {
        let line = self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(_, line)| *line);
        Error::bad_input(format!("grammar, line {line}: {what}"))
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    /// The number of a rule by its name.
    fn number(&mut self, name: &str) -> usize {
        if let Some(i) = self.names.get(name) {
            return *i;
        }
        self.rules.push(None);
        self.names.insert(name.to_string(), self.rules.len() - 1);
        self.rules.len() - 1
    }

    fn rule(&mut self) -> Result<()> {
        let (Some(Token::Name(name)), Some((Token::Defines, _))) = (self.peek(), self.tokens.get(self.at + 1)) else {
            return Err(self.wrong("expected `NAME ::=`"));
        };
        let name = name.clone();
        let i = self.number(&name);
        if self.rules[i].is_some() {
            return Err(self.wrong(&format!("the rule `{name}` is defined twice")));
        }
        self.at += 2;
        let expr = self.choice(0)?;
        self.rules[i] = Some(expr);
        Ok(())
    }

    fn choice(&mut self, depth: usize) -> Result<Expr> {
        if depth > MAX_DEPTH {
            return Err(self.wrong(&format!("parentheses are nested more than {MAX_DEPTH} deep")));
        }
        let mut choices = vec![self.sequence(depth)?];
        while self.peek() == Some(&Token::Or) {
            self.at += 1;
            choices.push(self.sequence(depth)?);
        }
        Ok(if choices.len() == 1 { choices.remove(0) } else { Expr::Choice(choices) })
    }

    fn sequence(&mut self, depth: usize) -> Result<Expr> {
        let mut items = Vec::new();
        loop {
            // A name before `::=` begins the next rule.
            let is_next = matches!(self.tokens.get(self.at + 1), Some((Token::Defines, _)));
            let item = match self.peek() {
                Some(Token::Name(_)) if is_next => break,
                Some(Token::Name(name)) => {
                    let name = name.clone();
                    Expr::Rule(self.number(&name))
                }
                Some(Token::Text(text)) => Expr::Text(text.clone()),
                Some(Token::Class(ranges, is_negated)) => Expr::Class(ranges.clone(), *is_negated),
                Some(Token::Open) => {
                    self.at += 1;
                    let inner = self.choice(depth + 1)?;
                    if self.peek() != Some(&Token::Close) {
                        return Err(self.wrong("a parenthesis without its second"));
                    }
                    inner
                }
                Some(Token::Repeat(least, most)) => {
                    let (least, most) = (*least, *most);
                    let Some(last) = items.pop() else { return Err(self.wrong("a repetition of nothing")) };
                    if matches!(last, Expr::Repeat(..)) {
                        return Err(self.wrong("a repetition of a repetition; put it into parentheses"));
                    }
                    Expr::Repeat(Box::new(last), least, most)
                }
                Some(Token::Defines) => return Err(self.wrong("`::=` after no name")),
                Some(Token::Or | Token::Close) | None => break,
            };
            self.at += 1;
            items.push(item);
        }
        Ok(if items.len() == 1 { items.remove(0) } else { Expr::Sequence(items) })
    }
}

/// Whether a rule is made of terminals alone, through whatever rules. `kinds` knows those that were looked at; one that is
/// being looked at is recursive.
fn is_regular(rules: &[Expr], kinds: &mut Vec<Option<bool>>, i: usize, depth: usize) -> Result<bool> {
    if depth > MAX_DEPTH {
        return Err(Error::bad_input(format!("grammar: rules are nested more than {MAX_DEPTH} deep")));
    }
    if let Some(kind) = kinds[i] {
        return Ok(kind);
    }
    kinds[i] = Some(false);
    let mut used = Vec::new();
    rules[i].rules(&mut used);
    let mut is_all = true;
    for other in used {
        is_all &= is_regular(rules, kinds, other, depth + 1)?;
    }
    kinds[i] = Some(is_all);
    Ok(is_all)
}

impl Expr {
    /// The rules that it names.
    fn rules(&self, used: &mut Vec<usize>) {
        match self {
            Expr::Text(_) | Expr::Class(..) => {}
            Expr::Rule(i) => used.push(*i),
            Expr::Sequence(items) | Expr::Choice(items) => items.iter().for_each(|item| item.rules(used)),
            Expr::Repeat(inner, ..) => inner.rules(used),
        }
    }

    fn write(&self, names: &[String], out: &mut String) {
        let _ = match self {
            Expr::Text(text) => write!(out, "{}", serde_json::Value::from(text.as_str())),
            Expr::Class(ranges, true) if ranges.is_empty() => write!(out, r"/[\x{{0}}-\x{{10ffff}}]/"),
            Expr::Class(ranges, is_negated) => {
                out.push_str(if *is_negated { "/[^" } else { "/[" });
                for (from, to) in ranges {
                    let _ = write!(out, r"\x{{{:x}}}-\x{{{:x}}}", *from as u32, *to as u32);
                }
                write!(out, "]/")
            }
            Expr::Rule(i) => write!(out, "{}", names[*i]),
            Expr::Sequence(items) if items.is_empty() => write!(out, "\"\""),
            Expr::Sequence(items) => {
                for (i, item) in items.iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { " " });
                    item.write(names, out);
                }
                Ok(())
            }
            Expr::Choice(items) => {
                for (i, item) in items.iter().enumerate() {
                    out.push_str(if i == 0 { "(" } else { " | " });
                    item.write(names, out);
                }
                write!(out, ")")
            }
            Expr::Repeat(inner, least, most) => {
                out.push('(');
                inner.write(names, out);
                match (least, most) {
                    (0, None) => write!(out, ")*"),
                    (1, None) => write!(out, ")+"),
                    (0, Some(1)) => write!(out, ")?"),
                    (least, None) => write!(out, "){{{least},}}"),
                    (least, Some(most)) => write!(out, "){{{least},{most}}}"),
                }
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_become_terminals_unless_they_are_recursive() {
        let lark = to_lark(
            r#"
            # a list of lists
            root ::= "[" ws (item ("," ws item)*)? "]"
            item ::= number | root
            number ::= "-"? [0-9]{1,3} [^a-c\]]
            ws ::= [ \n]*
            "#,
        );
        let want = [
            "start: r0",
            r#"r0: "[" T1 (r2 ("," T1 r2)*)? "]""#,
            r"T1: (/[\x{20}-\x{20}\x{a}-\x{a}]/)*",
            "r2: (T3 | r0)",
            r#"T3: ("-")? (/[\x{30}-\x{39}]/){1,3} /[^\x{61}-\x{63}\x{5d}-\x{5d}]/"#,
            "",
        ];
        assert_eq!(lark.unwrap(), want.join("\n"));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let deep = format!("root ::= {}\"a\"{}", "(".repeat(100), ")".repeat(100));
        let chain: String = (0..100).map(|i| format!("r{i} ::= r{}\n", i + 1)).collect();
        for (grammar, why) in [
            ("a ::= \"x\"", "`root`"),
            ("root ::= b", "`b` is used"),
            ("root ::= \"x\"\nroot ::= \"y\"", "line 2"),
            ("root ::= \"x", "second quote"),
            ("root ::= [a", "`]`"),
            ("root ::= [z-a]", "before it begins"),
            ("root ::= (\"a\"", "parenthesis"),
            ("root ::= \"a\")", "expected `NAME ::=`"),
            ("root ::= *", "repetition of nothing"),
            ("root ::= \"a\"{99999}", "16384"),
            ("root ::= \"a\"{3,2}", "before it begins"),
            ("root ::= \"a\"{x}", "repetition"),
            ("root ::= \"\\q\"", "backslash"),
            ("root ::= \"\\ud800\"", "backslash"),
            ("root ::= ;", "begins nothing"),
            (&deep, "64 deep"),
            (&format!("{chain}r100 ::= \"a\"\nroot ::= r0"), "64 deep"),
        ] {
            let err = to_lark(grammar).expect_err(grammar);
            assert!(err.to_string().contains(why), "{grammar}: {err}");
        }
    }
}
