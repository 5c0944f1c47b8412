//! Compares which properties two versions coerce.

use super::super::EventSchema;
use super::super::coerce::{self, Target};
use super::super::violation::cut;
use super::widening::Widening;

/// A text that the narrower one reads as a number has to be read so by the wider one, and what is no text is to stay what it is.
pub(super) fn compare(widening: &mut Widening<'_>, narrow: &EventSchema, wide: &EventSchema) {
    let (wider, narrower) = (widening.wider, widening.narrower);
    for (name, target) in narrow.coerced.each() {
        let problem = match wide.coerced.target(name) {
            Some(other) if other == target => continue,
            Some(_) => format!("{wider} reads texts of `{}` as something else than {narrower}", cut(name)),
            None => format!("{wider} does not coerce `{}`, and {narrower} does", cut(name)),
        };
        widening.breaks("/coerce".to_owned(), problem);
    }
    let is_new = |(name, target): &(&str, Target)| narrow.coerced.target(name).is_none() && target.reads_numbers();
    for (name, _) in wide.coerced.each().filter(is_new) {
        if coerce::may_be_number(&narrow.expanded, name) {
            let problem =
                format!("{wider} reads numbers of `{}` as times, and {narrower} takes them as numbers", cut(name));
            widening.breaks("/coerce".to_owned(), problem);
        }
    }
}
