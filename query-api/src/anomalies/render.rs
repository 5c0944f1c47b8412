//! A judged series as JSON.

use serde::Serialize;

use super::Read;
use super::detect::{Bucket, Found, Scale};
use super::plan::{AnomalyPlan, periods};
use super::query::{Direction, Sensitivity};
use crate::metric::Nature;
use crate::render::meta::About;
use crate::render::{Rendered, assemble, json};
use crate::time::{Granularity, Zone};

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
pub fn render(plan: &AnomalyPlan, read: &Read, found: &Found, generated_s: i64) -> Rendered {
    let (frame, shown, about) =
        (&plan.frame, &plan.shown, About { from: plan.shown.from, ..read.about(plan.shown.from, generated_s) });
    let (zone, nature) = (&frame.zone, plan.judged().nature);
    let data: Vec<String> = found.buckets.iter().map(|bucket| point(bucket, zone, nature)).collect();
    let body = format!(
        "{{\"metric\":{},\"granularity\":{},\"timezone\":{},\"data\":[{}]}}",
        json::text(&read.metric()),
        json::text(&frame.granularity),
        json::text(zone),
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
        anomalies: found.buckets.iter().filter(|bucket| bucket.is_anomaly).count(),
    };
    assemble(&body, &about, &own)
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
        "{{\"timestamp\":\"{}\",\"value\":{},\"expected\":{},\"lower\":{},\"upper\":{},\"score\":{},\"is_anomaly\":{}{}}}",
        zone.rfc3339(bucket.at),
        json::number(bucket.value, nature.is_count),
        of_band(band.map(|band| band.expected)),
        of_band(band.map(|band| band.lower)),
        of_band(band.map(|band| band.upper)),
        json::number(bucket.score.map(|score| rounded(score, 1e2)), false),
        bucket.is_anomaly,
        if bucket.is_partial { ",\"partial\":true" } else { "" },
    )
}

fn rounded(value: f64, places: f64) -> f64 {
    (value * places).round() / places
}
