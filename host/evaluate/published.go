package evaluate

import (
	"slices"
)

// Published is a row of a published table, for comparison. It was not measured by srpo: the weights and the
// machines are others.
type Published struct {
	// Name is that of the row, Source that of the table.
	Name   string `json:"name"`
	Source string `json:"source"`
	// Rates by suite or dimension, 0 to 1.
	Rates map[string]float64 `json:"rates"`
	// Mean is the unweighted mean of the rates. Weighted is weighted by the task counts of LIBERO-Plus; nil for
	// LIBERO.
	Mean     float64  `json:"plain_mean"`
	Weighted *float64 `json:"weighted,omitempty"`
}

const (
	srpoPaper  = "arXiv 2511.15605, LIBERO"
	srpoPlus   = "arXiv 2511.15605, LIBERO-Plus"
	rowOneShot = "OpenVLA-OFT, one-shot SFT"
)

// The suites and dimensions of the published tables, in their order.
var (
	LiberoSuites   = []string{"libero_spatial", "libero_object", "libero_goal", "libero_10"}
	PlusDimensions = []string{"camera", "robot", "language", "light", "background", "noise", "layout"}
)

// plusCounts are the numbers of variants per dimension in LIBERO-Plus.
var plusCounts = []float64{1599, 1550, 1537, 1142, 1076, 1601, 1525}

// liberoRows and plusRows are percentages as printed, in the order of LiberoSuites and PlusDimensions.
var liberoRows = []struct {
	name  string
	rates []float64
}{
	{rowOneShot, []float64{63.6, 54.9, 59.6, 17.3}},
	{rowOneShot + " + offline SRPO", []float64{92.5, 96.8, 92.0, 88.7}},
	{rowOneShot + " + online SRPO", []float64{98.8, 100.0, 99.4, 98.6}},
	{"OpenVLA-OFT, full SFT", []float64{91.6, 95.3, 90.6, 86.5}},
}

var plusRows = []struct {
	name  string
	rates []float64
}{
	{rowOneShot, []float64{3.2, 14.0, 27.6, 25.7, 32.7, 6.4, 26.4}},
	{rowOneShot + " + SRPO", []float64{17.1, 51.0, 81.8, 70.4, 88.9, 35.3, 72.4}},
	{"one-shot, augmented data", []float64{12.8, 23.0, 30.0, 42.0, 49.6, 23.3, 34.5}},
	{"one-shot, augmented data + SRPO", []float64{83.4, 62.0, 73.6, 97.2, 97.7, 85.7, 75.2}},
	{"full SFT, augmented data", []float64{69.4, 49.6, 66.3, 88.2, 88.5, 78.7, 70.3}},
}

// publishedFor returns the published rows for an evaluation of LIBERO or LIBERO-Plus; none for other envs.
func publishedFor(r *Results) []Published {
	var out []Published
	names := make([]string, 0, len(r.Suites)+len(r.Dimensions))
	for _, d := range r.Dimensions {
		names = append(names, d.Name)
	}
	if anyOf(names, PlusDimensions) && allSuitesAre(r.Suites, LiberoSuites) {
		for _, row := range plusRows {
			p := publish(row.name, srpoPlus, PlusDimensions, row.rates)
			weighted := plusWeighted(func(dimension string) float64 { return p.Rates[dimension] })
			p.Weighted = &weighted
			out = append(out, p)
		}
		return out
	}
	if len(r.Dimensions) == 0 && allSuitesAre(r.Suites, LiberoSuites) {
		for _, row := range liberoRows {
			out = append(out, publish(row.name, srpoPaper, LiberoSuites, row.rates))
		}
	}
	return out
}

// plusWeighted returns the mean of the dimensions' rates, weighted by the counts of LIBERO-Plus.
func plusWeighted(rate func(dimension string) float64) float64 {
	var sum, n float64
	for i, d := range PlusDimensions {
		sum, n = sum+rate(d)*plusCounts[i], n+plusCounts[i]
	}
	return sum / n
}

func publish(name, source string, columns []string, percent []float64) Published {
	p := Published{Name: name, Source: source, Rates: map[string]float64{}}
	for i, x := range percent {
		p.Rates[columns[i]] = x / 100
		p.Mean += x / 100 / float64(len(percent))
	}
	return p
}

func anyOf(names, known []string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return slices.Contains(known, n) })
}

func allSuitesAre(suites []Score, known []string) bool {
	return len(suites) > 0 &&
		!slices.ContainsFunc(suites, func(s Score) bool { return !slices.Contains(known, s.Name) })
}
