package report

import (
	"embed"
	"encoding/base64"
	"html/template"
	"time"
)

// The pages' templates and styles. chart.css has the colours of charts and pages for light and dark
// displays. Charts refer to its classes, so one drawing serves both.
var (
	//go:embed assets/chart.css
	chartStyle string
	//go:embed assets/page.css
	pageStyle string
	//go:embed assets/eval.css
	evalStyle string
	//go:embed assets/reward.css
	rewardStyle string
	//go:embed assets/*.html
	assets embed.FS

	templates = template.Must(template.New("").Funcs(template.FuncMap{"percent": percent}).ParseFS(assets,
		"assets/*.html"))
)

// styles returns the style sheet of a page with charts and, after it, further styles.
func styles(more string) template.CSS { return template.CSS(chartStyle + pageStyle + more) }

// date formats the date on a page; "" for the zero time.
func date(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04 UTC")
}

// gifURL returns the data URL of a GIF.
func gifURL(data []byte) template.URL {
	return template.URL("data:image/gif;base64," + base64.StdEncoding.EncodeToString(data))
}
