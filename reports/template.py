"""The static pages as Jinja templates: structure and looks, no numbers."""

from __future__ import annotations

_HEAD = r"""{% macro log(title, sentence, columns, rows, left_out) %}
<h2>{{ title }}</h2>
<p class="quiet">{{ sentence }}{% if left_out %} {{ left_out }} more are in the run folder.{% endif %}</p>
{% if rows %}
<div class="wide"><table class="log">
<thead><tr>{% for column in columns %}<th{% if column.right %} class="n"{% endif %}>{{ column.title }}</th>{% endfor %}
</tr></thead>
<tbody>{% for row in rows %}<tr>{% for cell in row %}
{% set kind = "n" if columns[loop.index0].right else ("short" if cell|length < 20 else "") %}
<td class="{{ kind }}">
{{- cell -}}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endif %}
{% endmacro %}
{% macro picture(drawing, place) %}
<section>
<h3>{{ drawing.title }}</h3>
<p class="quiet">{{ drawing.sentence }}</p>
<div class="chart" id="chart-{{ place }}" role="img" aria-label="{{ drawing.title }}. {{ drawing.sentence }}">
</div>
</section>
{% endmacro %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root {
  color-scheme: light dark;
  --ground: #fcfcfb; --raised: #f3f3f0; --line: #dcdcd6; --text: #1f2328; --quiet: #5c636b;
  --pass: #0b6e4f; --fail: #a63d00; --unknown: #6b5300;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #16181b; --raised: #1f2226; --line: #363b41; --text: #e4e6e8; --quiet: #a0a7af;
    --pass: #4cc38a; --fail: #ff8f57; --unknown: #e3bd4f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--text); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 12px; font-weight: 650; text-wrap: balance; }
h2 { font-size: 1.2rem; margin: 48px 0 8px; font-weight: 650; }
h3 { font-size: 1rem; margin: 28px 0 2px; font-weight: 650; }
p { margin: 0 0 12px; max-width: 75ch; }
.quiet { color: var(--quiet); }
.verdict { font-size: 1.15rem; margin-bottom: 8px; }
.verdict strong.pass { color: var(--pass); } .verdict strong.fail { color: var(--fail); }
.verdict strong.unknown { color: var(--unknown); }
.pass { color: var(--pass); } .fail { color: var(--fail); } .unknown { color: var(--unknown); }
.wide { overflow-x: auto; margin: 8px 0 16px; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 6px 16px 6px 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--quiet); white-space: nowrap; }
tbody th { color: var(--text); font-weight: 500; }
td.short { white-space: nowrap; }
td.n, th.n { text-align: right; white-space: nowrap; }
tr.group th { padding-top: 18px; color: var(--quiet); font-weight: 600; }
@media (min-width: 900px) { .figures tbody th { width: 13em; } .figures td:nth-child(2) { white-space: nowrap; } }
.figures td:last-child { color: var(--quiet); }
.chart { width: 100%; margin: 4px 0 8px; }
.chart.vega-embed { display: block; }
.chart.vega-embed summary { display: none; }
code, pre { font: inherit; background: var(--raised); border-radius: 4px; }
code { padding: 1px 5px; overflow-wrap: anywhere; }
pre { padding: 12px 14px; margin: 8px 0 12px; white-space: pre-wrap; overflow-wrap: anywhere; user-select: all; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 20px; margin: 0; font-size: 0.92rem; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 640px) {
  main { padding: 20px 16px 48px; }
  h1 { font-size: 1.35rem; }
  .figures, .figures tbody, .figures tr, .figures th, .figures td { display: block; border: 0; padding: 0; }
  .figures tr { padding: 7px 0; border-bottom: 1px solid var(--line); }
  .figures tr.group { padding-top: 20px; }
  .figures td:last-child { font-size: 0.85rem; }
  table { font-size: 0.85rem; } th, td { padding-right: 10px; } th code { overflow-wrap: anywhere; }
  .log { min-width: 640px; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; }
}
@media print { .wide { overflow: visible; } }
</style>
</head>
<body>
<main>
"""

_TAIL = r"""</main>
<script>{{ vega|safe }}</script>
<script type="application/json" id="charts">{{ charts|safe }}</script>
<script type="application/json" id="themes">{{ themes|safe }}</script>
<script>
(function () {
  var specs = JSON.parse(document.getElementById("charts").textContent);
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  var views = [];
  var themes = JSON.parse(document.getElementById("themes").textContent);
  function config() { return themes[dark.matches ? 1 : 0]; }
  function draw() {
    views.splice(0).forEach(function (view) { view.finalize(); });
    specs.forEach(function (spec, index) {
      vegaEmbed("#chart-" + index, spec, { config: config(), actions: false, renderer: "svg", tooltip: true })
        .then(function (view) { views.push(view); })
        .catch(function (error) { document.getElementById("chart-" + index).textContent = String(error); });
    });
  }
  dark.addEventListener("change", draw);
  draw();
})();
</script>
</body>
</html>
"""

RUN = (
    _HEAD
    + r"""<header>
<p class="quiet">Scenario {{ scenario }}, {{ where }}</p>
<h1>{{ claim }}</h1>
<p class="verdict"><strong class="{{ verdict_key }}">{{ sign }} {{ verdict }}.</strong> {{ verdict_sentence }}</p>
{% for note in notes %}<p>{{ note }}</p>
{% endfor %}
{% if why %}<p class="quiet">{{ why }}</p>{% endif %}
</header>

{% if expectations %}
<h2>What was expected</h2>
<div class="wide"><table>
<thead><tr><th>Figure</th><th>Limit</th><th>{{ "Mean" if runs|length > 1 else "Measured" }}</th>
{%- if runs|length > 1 %}<th>95 % interval of the mean</th><th>Worst run</th><th>Kept in</th>{% endif %}
<th>Verdict</th></tr></thead>
<tbody>
{% for each in expectations %}
<tr><th scope="row"><code>{{ each.name }}</code></th><td>{{ each.limit }}</td><td>{{ each.value }}</td>
{% if runs|length > 1 %}<td>{{ each.ci95 }}</td><td>{{ each.worst }}</td><td>{{ each.kept }}</td>{% endif %}
<td class="{{ each.verdict_key }}">{{ each.sign }} {{ each.verdict }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}

<h2>{{ "Timeline of the run" if runs|length == 1 else "Timeline of one run" }}</h2>
<p>{{ shown }}</p>
<noscript><p>The charts are drawn by a script that is part of this page; scripts are switched off here.</p></noscript>
{% for drawing in drawings %}
{{ picture(drawing, loop.index0) }}
{% endfor %}

{% for each in logs_before %}
{{ log(each.title, each.sentence, each.columns, each.rows, each.left_out) }}
{% endfor %}

<h2>Figures</h2>
<p class="quiet">{{ figures_note }}</p>
<div class="wide"><table class="figures"><tbody>
{% for group, rows in figures %}
<tr class="group"><th colspan="3">{{ group }}</th></tr>
{% for row in rows %}
<tr><th scope="row">{{ row.label }}</th><td>{% for line in row.lines %}{{ line }}{% if not loop.last %}<br>{% endif %}
{%- endfor %}</td><td>{{ row.meaning }}</td></tr>
{% endfor %}
{% endfor %}
</tbody></table></div>
{% for each in logs_after %}
{{ log(each.title, each.sentence, each.columns, each.rows, each.left_out) }}
{% endfor %}

<h2>Run it again</h2>
<pre>{{ again }}</pre>
<dl>
{% for name, value in facts %}<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}
</dl>
"""
    + _TAIL
)
"""A run, or several of one scenario."""

COMPARISON = (
    _HEAD
    + r"""<header>
<p class="quiet">{{ where }}</p>
<h1>{{ headline }}</h1>
{% for line in lines %}<p{% if loop.index > 1 %} class="quiet"{% endif %}>{{ line }}</p>
{% endfor %}
</header>
<noscript><p>The charts are drawn by a script that is part of this page; scripts are switched off here.</p></noscript>
{% for part in parts %}
{% if part.is_log %}{{ log(part.what.title, part.what.sentence, part.what.columns, part.what.rows, part.what.left_out) }}
{% else %}{{ picture(part.what, part.place) }}
{% endif %}
{% endfor %}

<h2>Do it again</h2>
{% for line in again %}<pre>{{ line }}</pre>
{% endfor %}
"""
    + _TAIL
)
"""Several runs beside each other: sections of charts and tables."""
