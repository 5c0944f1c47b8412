//! A schema as a table by name, checked against flat properties without putting them together again.

mod compile;
mod node;
mod table;

use std::borrow::Cow;

use super::pointer::of_path;
use super::rebuild::{Given, is_of_context};
use super::violation::{Violations, excerpt_of_property};
use super::{Fault, Sent};
use crate::limits::MAX_DEPTH;
use crate::property::{Place, Property};
use node::{Additional, Node};
use table::Table;

/// Nodes of one schema at most: a bit each says whether an event has the property.
const MAX_NODES: usize = 512;

/// A schema by the paths of what it names. The first node is the properties themselves.
#[derive(Debug)]
pub(super) struct Flat {
    nodes: Vec<Node>,
    table: Table,
    /// Pairs of an object and what it requires.
    required: Vec<(usize, usize)>,
    /// Bytes of the longest path.
    longest: usize,
}

/// Which nodes an event has.
struct Present([u64; MAX_NODES / 64]);

impl Present {
    /// Whether it was not there yet.
    fn add(&mut self, node: usize) -> bool {
        let Some(word) = self.0.get_mut(node / 64) else { return false };
        let bit = 1 << (node % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    fn has(&self, node: usize) -> bool {
        self.0.get(node / 64).is_some_and(|word| word & (1 << (node % 64)) != 0)
    }
}

/// What stands under a path.
#[derive(Clone, Copy)]
enum Found<'p, 'a> {
    Property(&'p Property<'a>),
    Object,
    Null,
}

impl Found<'_, '_> {
    fn place(self) -> Place {
        match self {
            Self::Property(property) => property.sent.place,
            Self::Object | Self::Null => Place::Properties,
        }
    }

    fn excerpt(self) -> String {
        match self {
            Self::Property(property) => excerpt_of_property(property),
            Self::Object => "an object".to_owned(),
            Self::Null => "null".to_owned(),
        }
    }
}

impl Flat {
    /// `None` when the schema has keywords that need the whole object.
    pub(super) fn compile(expanded: &serde_json::Value) -> Result<Option<Self>, Fault> {
        compile::Compiler::run(expanded)
    }

    /// Checks an event.
    pub(super) fn check(&self, sent: &Sent<'_, '_>, violations: &mut Violations) {
        let mut present = Present([0; MAX_NODES / 64]);
        present.add(0);
        for (place, property) in sent.properties.iter().enumerate() {
            if property.sent.place == Place::Context {
                continue;
            }
            let before = violations.count();
            self.look_at(&property.name, Found::Property(property), &mut present, violations);
            // Of several values for one name the last counts.
            let later = sent.properties.get(place + 1..).unwrap_or_default();
            if violations.count() > before && later.iter().any(|later| later.name == property.name) {
                violations.back_to(before);
            }
        }
        let absent = |names: &'_ [Cow<'_, str>]| names.iter().any(|name| !is_of_context(name));
        if absent(sent.empty_objects) || absent(sent.nulls) {
            let objects = sent.empty_objects.iter().map(|name| (name, Found::Object));
            // A value takes the place of a `null`, before it or after it: the value is kept.
            let given = Given::of(sent);
            let nulls = sent.nulls.iter().filter(|name| !given.has(name)).map(|name| (name, Found::Null));
            for (name, found) in objects.chain(nulls).filter(|(name, _)| !is_of_context(name)) {
                self.look_at(name, found, &mut present, violations);
            }
        }
        for (object, needed) in &self.required {
            if present.has(*object)
                && !present.has(*needed)
                && let Some(node) = self.nodes.get(*needed)
            {
                violations.add(|| of_path(&node.path, Place::Properties), "there", || "not there".to_owned());
            }
        }
    }

    fn look_at(&self, name: &str, found: Found<'_, '_>, present: &mut Present, violations: &mut Violations) {
        match self.table.find(name, |place| self.nodes.get(place).map(|node| &*node.path)) {
            Some(place) => {
                self.mark(place, found, present, violations);
                if let Some(node) = self.nodes.get(place) {
                    check_node(node, name, found, violations);
                }
            }
            None => self.unnamed(name, found, present, violations),
        }
    }

    /// Notes that a node is there, and the objects that it is in.
    fn mark(&self, place: usize, found: Found<'_, '_>, present: &mut Present, violations: &mut Violations) {
        let (mut place, mut is_within) = (place, false);
        while let Some(node) = self.nodes.get(place) {
            let is_new = present.add(place);
            if is_within
                && is_new
                && let Err(expected) = node.check_object()
            {
                violations.add(|| of_path(&node.path, found.place()), &expected, || "an object".to_owned());
            }
            if place == 0 || (is_within && !is_new) {
                return;
            }
            (place, is_within) = (node.parent, true);
        }
    }

    /// A property that the schema does not name: what is said of the object that it is in.
    fn unnamed(&self, name: &str, found: Found<'_, '_>, present: &mut Present, violations: &mut Violations) {
        let mut within = (0, name);
        if name.contains('.') {
            for (dot, _) in name.match_indices('.').take(MAX_DEPTH).take_while(|(dot, _)| *dot <= self.longest) {
                let (Some(outer), Some(inner)) = (name.get(..dot), name.get(dot + 1..)) else { break };
                if let Some(place) = self.table.find(outer, |place| self.nodes.get(place).map(|node| &*node.path)) {
                    within = (place, inner);
                }
            }
        }
        let (place, rest) = within;
        let Some(node) = self.nodes.get(place) else { return };
        if place != 0 {
            let is_new = !present.has(place);
            self.mark(place, found, present, violations);
            if let Err(expected) = node.check_object() {
                if is_new {
                    violations.add(|| of_path(&node.path, found.place()), &expected, || "an object".to_owned());
                }
                return;
            }
        }
        match node.additional {
            Additional::Any => {}
            Additional::Refused => {
                violations.add(
                    || of_path(name, found.place()),
                    "absent: the schema does not name it",
                    || found.excerpt(),
                );
            }
            Additional::Like(like) => {
                let Some(like) = self.nodes.get(like) else { return };
                match rest.split_once('.') {
                    None => check_node(like, name, found, violations),
                    Some((first, _)) => {
                        let outer = name.get(..name.len() - rest.len() + first.len()).unwrap_or(name);
                        if let Err(expected) = like.check_object() {
                            violations.add(|| of_path(outer, found.place()), &expected, || "an object".to_owned());
                        }
                    }
                }
            }
        }
    }
}

fn check_node(node: &Node, name: &str, found: Found<'_, '_>, violations: &mut Violations) {
    let expected = match found {
        Found::Property(property) => {
            if node.is_array_checked(property) {
                return node.check_array(property, violations);
            }
            node.check(property)
        }
        Found::Object => node.check_object(),
        Found::Null => node.check_null(),
    };
    if let Err(expected) = expected {
        violations.add(|| of_path(name, found.place()), &expected, || found.excerpt());
    }
}
