//! A judged series as JSON.

use serde::Serialize;

use super::Read;
use super::detect::{Bucket, Detected, Kind, Scale};
use super::periods::periods;
use crate::cache::Rendered;
use crate::metric_definitions::Nature;
use crate::plan::Frame;
use crate::plan::anomalies::AnomalyPlan;
use crate::render::meta::About;
use crate::render::{assemble, json};
use crate::request::anomalies::{Direction, Sensitivity};
use crate::time::{Granularity, Zone, grid};

/// What a judged series says beside what every answer says.
#[derive(Serialize)]
struct Own {
    model: Model,
    sensitivity: Sensitivity,
    threshold: f64,
    direction: Direction,
    anomalies: usize,
}

/// What the expectations come from.
#[derive(Serialize)]
struct Model {
    /// Whether each bucket is compared with those of the same time of day or of the week, or with its neighbours.
    season: Season,
    scale: &'static str,
    /// Where history begins, and its whole buckets.
    learned_from: String,
    learned_points: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Season {
    Day,
    Week,
    None,
}

/// Renders what was found.
pub fn render(plan: &AnomalyPlan, read: &Read, found: &Detected, generated_s: i64) -> Rendered {
    let (frame, shown, about) =
        (&plan.frame, &plan.shown, About { from: plan.shown.from, ..read.about(plan.shown.from, generated_s) });
    let (zone, nature) = (&frame.zone, plan.judged().nature);
    let data: Vec<String> = found.buckets.iter().map(|bucket| point(bucket, zone, nature)).collect();
    let body = format!(
        "{{\"metric\":{},\"granularity\":{},\"timezone\":{},\"anomalies\":{},\"data\":[{}]}}",
        json::text(&read.metric()),
        json::text(&frame.granularity),
        json::text(zone),
        json::text(&episodes(found, frame)),
        data.join(",")
    );
    let own = Own {
        model: Model {
            season: season(found.period, frame.granularity),
            scale: match found.scale {
                Scale::Root => "sqrt",
                Scale::Linear => "linear",
            },
            learned_from: zone.rfc3339(frame.from),
            learned_points: found.learned,
        },
        sensitivity: shown.sensitivity,
        threshold: shown.sensitivity.threshold(),
        direction: shown.direction,
        anomalies: found.buckets.iter().filter(|bucket| bucket.anomaly.is_some()).count(),
    };
    assemble(&body, &about, &own)
}

/// Neighbouring buckets that are out of the ordinary in the same way.
#[derive(Serialize)]
struct Episode {
    kind: Kind,
    start: String,
    /// The end of its last bucket.
    end: String,
    buckets: usize,
    /// The score that is furthest from 0.
    score: f64,
    /// Whether the newest bucket that was judged is part of it.
    ongoing: bool,
}

fn episodes(found: &Detected, frame: &Frame) -> Vec<Episode> {
    let newest = found.buckets.iter().rposition(|bucket| bucket.score.is_some());
    let (mut episodes, mut before): (Vec<Episode>, Option<usize>) = (Vec::new(), None);
    for (place, bucket) in found.buckets.iter().enumerate() {
        let (Some(kind), Some(score)) = (bucket.anomaly, bucket.score.map(|score| rounded(score, 1e2))) else {
            continue;
        };
        let end = frame.zone.rfc3339(grid::next(frame.granularity, &frame.zone, bucket.at));
        let ongoing = newest == Some(place);
        let is_next = before.is_some_and(|before| before + 1 == place);
        match episodes.last_mut().filter(|episode| is_next && episode.kind == kind) {
            Some(episode) => {
                let score = if score.abs() > episode.score.abs() { score } else { episode.score };
                (episode.end, episode.buckets, episode.score, episode.ongoing) =
                    (end, episode.buckets + 1, score, ongoing);
            }
            None => {
                episodes.push(Episode { kind, start: frame.zone.rfc3339(bucket.at), end, buckets: 1, score, ongoing });
            }
        }
        before = Some(place);
    }
    episodes
}

fn season(period: Option<usize>, granularity: Granularity) -> Season {
    match period {
        None => Season::None,
        Some(period) if granularity != Granularity::Day && periods(granularity).first() == Some(&period) => Season::Day,
        Some(_) => Season::Week,
    }
}

fn point(bucket: &Bucket, zone: &Zone, nature: Nature) -> String {
    let of_band = |value: Option<f64>| json::number(value.map(|value| rounded(value, 1e3)), false);
    let band = bucket.band;
    format!(
        "{{\"timestamp\":\"{}\",\"value\":{},\"expected\":{},\"lower\":{},\"upper\":{},\"score\":{},\"is_anomaly\":{}{}{}}}",
        zone.rfc3339(bucket.at),
        json::number(bucket.value, nature.is_count),
        of_band(band.map(|band| band.expected)),
        of_band(band.map(|band| band.lower)),
        of_band(band.map(|band| band.upper)),
        json::number(bucket.score.map(|score| rounded(score, 1e2)), false),
        bucket.anomaly.is_some(),
        bucket.anomaly.map(|kind| format!(",\"kind\":{}", json::text(&kind))).unwrap_or_default(),
        if bucket.is_partial { ",\"partial\":true" } else { "" },
    )
}

fn rounded(value: f64, places: f64) -> f64 {
    (value * places).round() / places
}
