//! `longtake analyze theory` and `frequencies` as a user meets them.

use serde_json::Value;

use super::{longtake, stderr, text};

#[test]
fn the_theory_is_printed_drawn_and_read_by_other_programs() {
    let dir = tempfile::tempdir().unwrap();
    let plots = dir.path().join("plots");
    let out = longtake(&["analyze", "theory", "--only", "e1,E7", "--json", "--out", text(&plots)]);
    assert!(out.status.success(), "{}", stderr(&out));
    let value: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(value["ok"], true);
    let ids: Vec<&str> = value["experiments"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["E1", "E7"]);
    let row = &value["experiments"][0]["rows"][0];
    assert_eq!((row["expected"].as_str(), row["computed"].as_str()), (Some("144"), Some("144")));
    let names = ["critical-lengths", "preference-as-implemented", "preference-in-time", "temporal-scale"];
    for name in names {
        let svg = std::fs::read_to_string(plots.join(format!("{name}.svg"))).unwrap();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.contains("<polyline"), "{name}");
        let png = image::open(plots.join(format!("{name}.png"))).unwrap();
        assert_eq!((png.width(), png.height()), (1720, 980), "{name}");
    }
    assert_eq!(std::fs::read_dir(&plots).unwrap().count(), 2 * names.len());

    let out = longtake(&["analyze", "theory", "--only", "E1"]);
    let table = String::from_utf8(out.stdout).unwrap();
    assert!(table.contains("expected") && table.contains("hope 9x16, scale 0.75: next frame"), "{table}");
    let out = longtake(&["analyze", "theory", "--only", "E10"]);
    assert_eq!(out.status.code(), Some(2), "{}", stderr(&out));
}

#[test]
fn frequencies_come_from_flags_or_from_a_model() {
    let pairs = |args: &[&str]| -> Value {
        let out = longtake(&[&["analyze", "frequencies", "--json"], args].concat());
        assert!(out.status.success(), "{args:?}: {}", stderr(&out));
        serde_json::from_slice(&out.stdout).unwrap()
    };
    let hope = pairs(&["--layout", "hope"]);
    let axes: Vec<&Value> = hope["pairs"].as_array().unwrap().iter().map(|p| &p["axis"]).collect();
    assert_eq!((axes.len(), axes[0], axes[1], axes[47]), (64, &"h".into(), &"w".into(), &"w".into()));
    assert!(axes[48..].iter().all(|axis| axis.is_null()));
    let theta = |value: &Value, i: usize| value["pairs"][i]["theta"].as_f64().unwrap();
    assert_eq!(format!("{:.7}", theta(&hope, 15)), "0.0392419");
    assert_eq!(theta(&hope, 48), 0.0);
    let videorope = pairs(&["--layout", "videorope", "--rope-base", "1e4"]);
    assert_eq!(format!("{:.4e}", theta(&videorope, 63)), "1.1548e-4");
    assert!((videorope["pairs"][48]["period"].as_f64().unwrap() - std::f64::consts::TAU * 1e3).abs() < 1e-6);

    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/random_model/demo.gguf");
    let own = pairs(&["-m", model]);
    assert_eq!(own["pairs"].as_array().unwrap().len() as u64, own["head_dim"].as_u64().unwrap() / 2);
    assert_eq!(pairs(&["-m", model, "--layout", "rope"])["pairs"][3]["axis"], "t");

    for wrong in [
        &["--layout", "alibi"][..],
        &["--layout", "hope", "--sections", "1,2,3"],
        &["--layout", "hope", "--head-dim", "7"],
        &["--layout", "hope", "--head-dim", "99999999999"],
        &["--layout", "hope", "--rope-base", "nan"],
        &[],
    ] {
        let out = longtake(&[&["analyze", "frequencies"], wrong].concat());
        assert_eq!(out.status.code(), Some(2), "{wrong:?}: {}", stderr(&out));
    }
}
