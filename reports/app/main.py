"""The app: `ollamamax dashboard` runs this file in Streamlit."""

from __future__ import annotations

import streamlit as st

from reports.app import cluster, compare, one_run, overhead, prediction, recovery, runs, sweep, worlds

st.set_page_config(page_title="OllamaMax", layout="wide")

st.html(
    "<style>[data-testid='stMainBlockContainer'] {padding: 2.5rem 2rem 4rem; max-width: 1160px}"
    " [data-testid='stMain'] h1 {font-size: 1.75rem; line-height: 1.25} [data-testid='stMain'] h3 {font-size: 1.15rem}"
    "  [data-testid='stMain'] h2 {font-size: 1.4rem; padding-top: 1.2rem}"
    " [data-testid='stMain'] h4 {font-size: 1.1rem; font-weight: 500}</style>"
)
PAGES = {
    "runs": st.Page(runs.page, title="Runs", url_path="runs", default=True),
    "run": st.Page(one_run.page, title="One run", url_path="run"),
    "recovery": st.Page(recovery.page, title="Recovery time", url_path="recovery"),
    "overhead": st.Page(overhead.page, title="Overhead", url_path="overhead"),
    "prediction": st.Page(prediction.page, title="Prediction", url_path="prediction"),
    "compare": st.Page(compare.page, title="Compare", url_path="compare"),
    "worlds": st.Page(worlds.page, title="Twin and live", url_path="worlds"),
    "sweep": st.Page(sweep.page, title="Sweep", url_path="sweep"),
    "cluster": st.Page(cluster.page, title="Cluster now", url_path="cluster"),
}
st.session_state["pages"] = PAGES
st.navigation(list(PAGES.values())).run()
