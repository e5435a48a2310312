//! A YAML document as nodes that know where they stand. Resolves anchors by sharing, so that a file can't blow up by
//! naming itself; knows nothing of what may stand in it.

use std::collections::BTreeMap;
use std::rc::Rc;

use saphyr_parser::{Event, Marker, Parser, Span};

/// Nodes that one file may have, and levels: an Envoy configuration of ten thousand routes has a fifth of it.
const NODES_MAX: usize = 1_000_000;
const DEPTH_MAX: usize = 100;

/// Line and column, both from 1.
pub(super) type At = (usize, usize);

/// A value, and where it begins.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: At,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Map(Vec<(String, At, Rc<Node>)>),
    List(Vec<Rc<Node>>),
    Scalar(String),
}

impl Node {
    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Rc<Node>> {
        self.entries().iter().find(|(name, ..)| name == key).map(|(_, _, node)| node)
    }

    /// The value at a path of keys.
    pub(super) fn find(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, key| node.get(key).map(Rc::as_ref))
    }

    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text) => Some(text),
            _ => None,
        }
    }

    /// The text at a path of keys.
    pub(super) fn text_at(&self, path: &[&str]) -> Option<&str> {
        self.find(path)?.text()
    }

    /// The items of a list; none of anything else.
    pub(super) fn items(&self) -> &[Rc<Node>] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The entries of a map; none of anything else.
    pub(super) fn entries(&self) -> &[(String, At, Rc<Node>)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }
}

/// What is wrong with the form of a file, and where.
#[derive(Debug)]
pub(super) struct Malformed {
    pub(super) at: At,
    pub(super) what: String,
}

/// The documents of a file.
pub(super) fn read(text: &str) -> Result<Vec<Rc<Node>>, Malformed> {
    let mut reader = Reader { parser: Parser::new_from_str(text), anchors: BTreeMap::new(), nodes: 0 };
    let mut documents = Vec::new();
    while let Some((event, _)) = reader.next()? {
        if matches!(event, Event::DocumentStart(_))
            && let Some((event, span)) = reader.next()?
        {
            documents.push(reader.node(event, span, 0)?);
        }
    }
    Ok(documents)
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: BTreeMap<usize, Rc<Node>>,
    nodes: usize,
}

fn at(marker: &Marker) -> At {
    (marker.line(), marker.col() + 1)
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Malformed> {
        self.parser
            .next()
            .transpose()
            .map_err(|error| Malformed { at: at(error.marker()), what: format!("this is no YAML: {}", error.info()) })
    }

    fn inner(&mut self) -> Result<(Event<'a>, Span), Malformed> {
        self.next()?.ok_or(Malformed { at: (1, 1), what: "the file ends in the middle of a value".into() })
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Rc<Node>, Malformed> {
        let here = at(&span.start);
        self.nodes += 1;
        if self.nodes > NODES_MAX || depth > DEPTH_MAX {
            let what = format!("the file has more than {NODES_MAX} values, or more than {DEPTH_MAX} levels");
            return Err(Malformed { at: here, what });
        }
        let (anchor, value) = match event {
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).cloned();
                return known
                    .ok_or_else(|| Malformed { at: here, what: "this alias names a value that has not ended".into() });
            }
            Event::Scalar(text, _, anchor, _) => (anchor, Value::Scalar(text.into_owned())),
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.inner()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
                (anchor, Value::List(items))
            }
            Event::MappingStart(anchor, _) => (anchor, Value::Map(self.entries(depth)?)),
            _ => (0, Value::Scalar(String::new())),
        };
        let node = Rc::new(Node { at: here, value });
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        Ok(node)
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<(String, At, Rc<Node>)>, Malformed> {
        let mut entries = Vec::new();
        loop {
            let (event, span) = match self.inner()? {
                (Event::MappingEnd, _) => return Ok(entries),
                found => found,
            };
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.inner()?;
            let value = self.node(event, span, depth + 1)?;
            let Some(name) = key.text() else {
                return Err(Malformed { at: key.at, what: "a key must be text".into() });
            };
            entries.push((name.to_owned(), key.at, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_know_where_they_stand_and_aliases_are_shared() {
        let documents = read("a: &x\n  b: [1, two]\nc: *x\n---\n\"d\": {e: f}\n").unwrap();
        assert_eq!(documents.len(), 2);
        let two = &documents[0].find(&["c", "b"]).unwrap().items()[1];
        assert_eq!((two.text(), two.at), (Some("two"), (2, 10)));
        assert_eq!(documents[1].text_at(&["d", "e"]), Some("f"));
    }

    #[test]
    fn a_file_that_is_no_yaml_is_refused_with_its_place() {
        for (text, line) in [("a: [1\nb: 2\n", 2), ("a: &x [*x]\n", 1), ("? [a]\n: b\n", 1), ("a: \"b\n", 1)] {
            let malformed = read(text).unwrap_err();
            assert_eq!(malformed.at.0, line, "{text:?}: {malformed:?}");
        }
        let deep = "[".repeat(DEPTH_MAX + 2);
        assert!(read(&deep).is_err());
    }

    #[test]
    fn a_file_that_names_itself_again_and_again_stays_small() {
        let mut text = "a0: &a0 [x, x]\n".to_owned();
        for n in 1..40 {
            text.push_str(&format!("a{n}: &a{n} [*a{before}, *a{before}]\n", before = n - 1));
        }
        assert_eq!(read(&text).unwrap().len(), 1);
    }
}
