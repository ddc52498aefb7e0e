//! A YAML document as a tree of places: where in the text each thing begins and ends, and how it is written. What the things mean is
//! read elsewhere.

use granit_parser::{Event, Parser, Span, StructureStyle};

/// A thing of a text.
#[derive(Debug)]
pub(super) struct Node {
    /// Its first byte. Of a block only its elements say that for sure.
    pub(super) start: usize,
    /// The byte behind its last one.
    pub(super) end: usize,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    List {
        /// With dashes, each on a line; else in brackets.
        block: bool,
        elements: Vec<Node>,
    },
    Map {
        /// Each key on a line; else in braces.
        block: bool,
        entries: Vec<Entry>,
    },
    /// A scalar, or an alias of something.
    Scalar,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) key: Node,
    pub(super) value: Node,
}

/// Reads the one document of a text. `None`: it is none, or has keys that are not texts.
pub(super) fn parse(text: &str) -> Option<Node> {
    let options = granit_parser::options! { emit_comments: false };
    let mut events = Events(Parser::new_from_str_with_options(text, options));
    loop {
        match events.next()? {
            (Event::StreamStart | Event::DocumentStart(..), _) => {}
            (event, span) => return events.node(&event, span).map(|(_, node)| node),
        }
    }
}

struct Events<'a>(Parser<'a, granit_parser::StrInput<'a>>);

impl<'a> Events<'a> {
    fn next(&mut self) -> Option<(Event<'a>, Span)> {
        self.0.next_event()?.ok()
    }

    /// The node that begins with an event, and its text where it is a scalar. The parser bounds the depth.
    fn node(&mut self, event: &Event<'a>, span: Span) -> Option<(Option<String>, Node)> {
        let range = span.byte_range()?;
        let (start, mut end) = (range.start, range.end);
        let content = match event {
            Event::Scalar(text, ..) => {
                return Some((Some(text.to_string()), Node { start, end, content: Content::Scalar }));
            }
            Event::Alias(_) => Content::Scalar,
            Event::SequenceStart(style, ..) => {
                let block = *style == StructureStyle::Block;
                let mut elements: Vec<Node> = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if event == Event::SequenceEnd {
                        end = end_of(block, elements.last(), &span, end)?;
                        break Content::List { block, elements };
                    }
                    elements.push(self.node(&event, span)?.1);
                }
            }
            Event::MappingStart(style, ..) => {
                let block = *style == StructureStyle::Block;
                let mut entries: Vec<Entry> = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if event == Event::MappingEnd {
                        end = end_of(block, entries.last().map(|entry| &entry.value), &span, end)?;
                        break Content::Map { block, entries };
                    }
                    let (name, key) = self.node(&event, span)?;
                    let (event, span) = self.next()?;
                    let (_, value) = self.node(&event, span)?;
                    entries.push(Entry { name: name?, key, value });
                }
            }
            _ => return None,
        };
        Some((None, Node { start, end, content }))
    }
}

/// A block ends with its last element: the parser sees its end only when something else begins, behind comments.
fn end_of(block: bool, last: Option<&Node>, span: &Span, start: usize) -> Option<usize> {
    if block { Some(last.map_or(start, |last| last.end)) } else { span.byte_range().map(|range| range.end) }
}
