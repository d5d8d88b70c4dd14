package report

import "html/template"

const pageStyle = `
*{box-sizing:border-box}
html{color-scheme:light dark}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1280px;margin:0 auto;padding:28px 24px 60px}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:6px 14px;margin-bottom:18px}
h1{font-size:26px;line-height:1.2;margin:0;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:17px;margin:34px 0 12px}
h3{font-size:13px;margin:18px 0 8px;color:var(--soft);font-weight:600}
.sub{color:var(--soft);flex-basis:100%}
.pill{border:1px solid var(--edge);border-radius:99px;padding:1px 11px;font-size:13px;color:var(--soft);background:var(--card)}
.good{color:var(--good)}.bad{color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px}
.tile,.card{background:var(--card);border:1px solid var(--edge);border-radius:10px}
.tile{padding:12px 14px}.tile b{display:block;font-size:22px;white-space:nowrap;line-height:1.25;font-weight:650;font-variant-numeric:tabular-nums}
.tile span{font-size:12.5px;color:var(--soft);display:block}
.card{padding:12px 12px 8px;min-width:0}.card>svg{display:block;width:100%;height:auto}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:14px}
.small{display:grid;grid-template-columns:repeat(auto-fill,minmax(260px,1fr));gap:14px}
.stack{display:grid;gap:14px}
.clips{display:grid;grid-template-columns:repeat(auto-fill,minmax(168px,1fr));gap:14px}
.clip{overflow:hidden;padding:0}.clip img,.clip .none{display:block;width:100%;aspect-ratio:1;object-fit:contain;background:#000;image-rendering:pixelated}
.clip .none{display:grid;place-items:center;color:#999;font-size:13px}
.clip div.w{padding:8px 11px 10px;font-size:12.5px;color:var(--soft)}.clip .id{overflow-wrap:anywhere;line-height:1.35}
.clip .r{display:flex;justify-content:space-between;color:var(--ink);font-weight:600;font-size:13.5px}
.clip.yes{border-color:color-mix(in srgb,var(--good) 55%,var(--edge))}
table{border-collapse:collapse;width:100%;font-size:13.5px}td,th{text-align:left;padding:4px 10px 4px 0;vertical-align:top;border-bottom:1px solid var(--grid)}
th{font-weight:600;color:var(--soft)}tr:last-child td{border-bottom:0}td:first-child{white-space:nowrap;color:var(--soft)}td{overflow-wrap:anywhere}
td.n{font-variant-numeric:tabular-nums}.wide{overflow-x:auto}
code,pre,.m{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:12.5px}pre{overflow:auto;margin:6px 0;white-space:pre-wrap}
.changed{font-weight:650}
.cols{columns:3 340px;column-gap:14px}.cols .card{break-inside:avoid;margin-bottom:14px}
.hint{color:var(--soft)}footer{margin-top:36px;color:var(--soft);font-size:12.5px}
summary{cursor:pointer;color:var(--soft)}
`

var page = template.Must(template.New("run").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>{{.Name}} · srpo</title><style>{{.Style}}</style></head>
<body><main>
<header><h1>{{.Name}}</h1><span class="pill {{.StatusClass}}">{{.Status}}</span><span class="sub">{{.Summary}}</span></header>
<div class="tiles">{{range .Tiles}}<div class="tile"><span>{{.Label}}</span><b>{{.Value}}</b><span>{{.Note}}</span></div>{{end}}</div>
{{if .Problems}}<h2>Files that could not be read</h2><div class="card">{{range .Problems}}<div class="bad m">{{.}}</div>{{end}}</div>{{end}}
<h2>Learning</h2>
<div class="two">{{range .Success}}<div class="card">{{.}}</div>{{end}}</div>
<h2>Update and reward</h2>
<div class="small">{{range .Small}}<div class="card">{{.}}</div>{{end}}</div>
{{if .Audit}}<h2>Is the reward any good</h2><div class="two">{{range .Audit}}<div class="card">{{.}}</div>{{end}}</div>
<p class="hint">Every few iterations (report.audit_every), over the episodes of that iteration, against centres that do not know the episode which is measured. 50 % is chance. Where length alone separates success from failure, an encoder that sees only length would look as good.</p>{{end}}
<h2>Where the time and the groups go</h2>
<div class="two">{{range .Work}}<div class="card">{{.}}</div>{{end}}</div>
<h2>Rollouts</h2>
{{if not .Rollouts}}<p class="hint">No episode was saved as video.</p>{{end}}
{{range .Rollouts}}<h3>Iteration {{.Iteration}}</h3><div class="clips">{{range .Rollouts}}<div class="card clip{{if .Success}} yes{{end}}">
{{if .Missing}}<div class="none">{{.Missing}}</div>{{else}}<img src="{{.Source}}" alt="episode {{.ID}}" loading="lazy">{{end}}
<div class="w"><div class="r">{{if .Success}}<span class="good">success</span>{{else}}<span class="bad">failure</span>{{end}}<span>reward {{.RewardText}}</span></div>
<div>distance {{.DistanceText}} · {{.StepsText}} steps{{if .Evaluation}} · evaluation{{end}}</div>{{if .Instruction}}<div>“{{.Instruction}}”</div>{{end}}<div class="id m">{{.ID}}</div></div></div>{{end}}</div>{{end}}
{{if gt .LeftOut 0}}<p class="hint">{{.LeftOut}} more in the folder episodes.</p>{{end}}
{{if .Warnings}}<h2>Warnings</h2><div class="card wide"><table><tr><th>time</th><th>iteration</th><th>what</th><th></th></tr>
{{range .Warnings}}<tr><td class="n">{{.When}}</td><td class="n">{{.Iteration}}</td><td{{if .Bad}} class="bad"{{end}}>{{.Type}}</td><td>{{if .Place}}<span class="m">{{.Place}}</span>: {{end}}{{.Message}}{{if .Hint}}<div class="hint">{{.Hint}}</div>{{end}}{{if .Detail}}<details><summary>details</summary><pre>{{.Detail}}</pre></details>{{end}}</td></tr>{{end}}
</table>{{if .MoreWarnings}}<p class="hint">and {{.MoreWarnings}} more in events.jsonl</p>{{end}}</div>{{end}}
{{if .Manifest}}<h2>What ran</h2><div class="stack">{{if .Plugins}}<div class="card wide"><table><tr><th>plugin</th><th>name</th><th>version</th><th>package</th><th>libraries</th></tr>
{{range .Plugins}}<tr><td>{{.Kind}}</td><td>{{.Name}}</td><td>{{.Version}}</td><td class="m">{{printf "%.16s" .Hash}}</td><td>{{range $k, $v := .Versions}}{{$k}} {{$v}} {{end}}</td></tr>{{end}}</table></div>{{end}}
<div class="card"><table>{{range .Manifest}}<tr><td>{{.Key}}</td><td class="m">{{.Value}}</td></tr>{{end}}</table></div></div>{{end}}
{{if .Settings}}<h2>Settings</h2><p class="hint">Bold: not the default. Point at a name to read what it means.</p><div class="cols">{{range .Settings}}<div class="card"><h3 style="margin-top:2px">[{{.Name}}]</h3><table>{{range .Rows}}<tr><td title="{{.Doc}}">{{.Key}}</td><td class="m{{if .Changed}} changed{{end}}">{{.Value}}</td></tr>{{end}}</table></div>{{end}}</div>{{end}}
{{if .RawConfig}}<h2>Settings</h2><div class="card"><pre>{{.RawConfig}}</pre></div>{{end}}
<footer>Bands are 95 % Wilson intervals over the episodes of an iteration.{{if .Written}} Written {{.Written}}.{{end}}</footer>
</main></body></html>
`))
