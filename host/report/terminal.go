package report

import (
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/srpo-dev/srpo/host/stats"
	"github.com/srpo-dev/srpo/host/store"
)

// Status is the state of a run.
type Status struct {
	// Iteration counts from 1 to Iterations. It is 0 while the starting policy is trained.
	Iteration, Iterations int
	// Phase is one of store.Phases, or for example "imitate" or "eval".
	Phase string
	// Done of Total units of the phase are done, for example episodes. Total is 0 if it is not known.
	Done, Total int
	// EnvSteps is the number of steps of the run so far.
	EnvSteps int64
	// Successes and Episodes count the finished episodes of this iteration.
	Successes, Episodes int
}

// Terminal shows a run's progress. On a terminal it updates one status line. Otherwise it writes plain
// lines, one per iteration and one every 30 seconds in between. Its methods may be called from several
// goroutines.
type Terminal struct {
	mu    sync.Mutex
	w     io.Writer
	live  bool
	color bool
	width func() int
	now   func() time.Time

	last      Status
	drawn     time.Time
	shown     bool
	began     time.Time // of the run
	iterBegan time.Time
	iterSteps int64
	took      []float64 // seconds of each committed iteration
	rates     []float64 // success rate of each committed iteration
	past      []sample
}

type sample struct {
	at    time.Time
	steps int64
}

// NewTerminal returns a Terminal that writes to w. It draws a status line if w is a terminal and TERM is
// not "dumb", with colours unless NO_COLOR is set.
func NewTerminal(w io.Writer) *Terminal {
	t := &Terminal{w: w, now: time.Now, width: func() int { return 80 }}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		t.live = true
		t.color = os.Getenv("NO_COLOR") == ""
		t.width = func() int {
			if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
				return width
			}
			return 80
		}
	}
	t.began = t.now()
	return t
}

const (
	redraw = 100 * time.Millisecond
	plain  = 30 * time.Second
	// window is the time over which the rate of env steps is averaged.
	window = 10 * time.Second
)

// Update shows a new state. It may be called at every change.
func (t *Terminal) Update(s Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	fresh := s.Iteration != t.last.Iteration
	if fresh {
		t.iterBegan, t.iterSteps = now, s.EnvSteps
	}
	changed := fresh || s.Phase != t.last.Phase
	t.last = s
	if n := len(t.past); n == 0 || now.Sub(t.past[n-1].at) >= redraw {
		t.past = append(t.past, sample{now, s.EnvSteps})
		for len(t.past) > 2 && now.Sub(t.past[0].at) > window {
			t.past = t.past[1:]
		}
	}
	if t.live {
		if changed || now.Sub(t.drawn) >= redraw {
			t.drawn = now
			t.draw(now)
		}
		return
	}
	if t.drawn.IsZero() {
		t.drawn = now
	}
	if now.Sub(t.drawn) >= plain {
		t.drawn = now
		fmt.Fprintln(t.w, t.line(now))
	}
}

// Line writes a line above the status line.
func (t *Terminal) Line(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clear()
	fmt.Fprintf(t.w, format+"\n", args...)
	if t.live && t.shown {
		t.draw(t.now())
	}
}

// Warn writes a warning.
func (t *Terminal) Warn(format string, args ...any) {
	t.Line("%s", t.paint("33", "warning: ")+fmt.Sprintf(format, args...))
}

// Committed writes the result of an iteration.
func (t *Terminal) Committed(m store.Metrics, iterations int) {
	low, high := stats.Wilson(m.SuccessRate, m.Episodes)
	t.mu.Lock()
	t.took = append(t.took, m.Seconds)
	t.rates = append(t.rates, m.SuccessRate)
	mean := t.iterationSeconds()
	t.mu.Unlock()
	note := ""
	if n := m.GroupsKept + m.GroupsDropped; n > 0 {
		note = fmt.Sprintf("  groups %d/%d", m.GroupsKept, n)
	}
	if m.EmbeddingsDropped > 0 {
		note += fmt.Sprintf("  %d embeddings dropped", m.EmbeddingsDropped)
	}
	if m.Iteration < iterations && mean > 0 {
		note += "  " + duration(float64(iterations-m.Iteration)*mean) + " left"
	}
	success := t.paint("1", fmt.Sprintf("%5.1f %%", 100*m.SuccessRate))
	t.Line("iteration %*d/%d  success %s  (95 %%: %s to %s)  reward %s  KL %s%s  %s", len(fmt.Sprint(iterations)),
		m.Iteration, iterations, success, percent(low), percent(high), fixed(m.RewardMean), fixed(m.KL), note,
		duration(m.Seconds))
}

func fixed(v float64) string {
	if math.IsNaN(v) {
		return "–"
	}
	return fmt.Sprintf("%.3f", v)
}

// Close removes the status line.
func (t *Terminal) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clear()
	t.shown = false
}

func (t *Terminal) clear() {
	if t.live && t.shown {
		fmt.Fprint(t.w, "\r\x1b[K")
	}
}

func (t *Terminal) draw(now time.Time) {
	line := []rune(t.line(now))
	if w := t.width() - 1; len(line) > w {
		line = line[:max(0, w)]
	}
	t.shown = true
	fmt.Fprint(t.w, "\r\x1b[K"+string(line))
}

// iterationSeconds returns the mean time of the last five iterations in seconds; 0 before the first.
func (t *Terminal) iterationSeconds() float64 {
	if len(t.took) == 0 {
		return 0
	}
	recent := t.took[max(0, len(t.took)-5):]
	sum := 0.0
	for _, s := range recent {
		sum += s
	}
	return sum / float64(len(recent))
}

// line returns the status line.
func (t *Terminal) line(now time.Time) string {
	s := t.last
	var parts []string
	if s.Iteration > 0 {
		parts = append(parts, fmt.Sprintf("%d/%d", s.Iteration, s.Iterations))
	}
	phase := s.Phase
	if s.Total > 0 {
		phase += fmt.Sprintf(" %d/%d", s.Done, s.Total)
		if t.live && t.width() >= 90 {
			phase += " " + bar(float64(s.Done)/float64(s.Total), 12)
		}
	}
	parts = append(parts, phase)
	if s.Episodes > 0 {
		parts = append(parts, fmt.Sprintf("success %.0f %%", 100*float64(s.Successes)/float64(s.Episodes)))
	}
	if r := t.rate(now); r > 0 {
		parts = append(parts, short(math.Round(r))+" steps/s")
	}
	if eta := t.eta(now); eta > 0 {
		parts = append(parts, duration(eta)+" left")
	}
	return strings.Join(parts, "  ")
}

// rate returns the env steps per second over the window.
func (t *Terminal) rate(now time.Time) float64 {
	if len(t.past) < 2 {
		return 0
	}
	d := now.Sub(t.past[0].at).Seconds()
	if d <= 0 {
		return 0
	}
	return float64(t.last.EnvSteps-t.past[0].steps) / d
}

// eta returns the remaining time in seconds, from the mean of the last iterations or, during the first one,
// from the finished share of its rollout. It is 0 if it is not known.
func (t *Terminal) eta(now time.Time) float64 {
	s := t.last
	if s.Iteration < 1 || s.Iterations < s.Iteration {
		return 0
	}
	elapsed := now.Sub(t.iterBegan).Seconds()
	after := float64(s.Iterations - s.Iteration)
	if mean := t.iterationSeconds(); mean > 0 {
		return max(0, mean-elapsed) + after*mean
	}
	if s.Phase == "rollout" && s.Total > 0 && s.Done > 0 && s.Done*10 >= s.Total {
		whole := elapsed * float64(s.Total) / float64(s.Done)
		return whole - elapsed + after*whole
	}
	return 0
}

func bar(share float64, width int) string {
	const eighths = " ▏▎▍▌▋▊▉"
	share = min(max(share, 0), 1)
	full := int(share * float64(width))
	var b strings.Builder
	b.WriteString(strings.Repeat("█", full))
	if full < width {
		b.WriteRune([]rune(eighths)[int((share*float64(width)-float64(full))*8)])
		b.WriteString(strings.Repeat(" ", width-full-1))
	}
	return "▕" + b.String() + "▏"
}

func (t *Terminal) paint(code, s string) string {
	if !t.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// Summary writes the result of a run: the success rates of training and of the evaluations among events,
// then the lines next, for example the path of the report.
func (t *Terminal) Summary(metrics []store.Metrics, events []store.Event, next ...string) {
	t.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(metrics); n > 0 {
		first, last := metrics[0], metrics[n-1]
		rates := make([]float64, n)
		seconds := 0.0
		for i, m := range metrics {
			rates[i] = m.SuccessRate
			seconds += max(0, m.Seconds)
		}
		low, high := stats.Wilson(last.SuccessRate, last.Episodes)
		fmt.Fprintf(t.w, "success %s → %s (95 %%: %s to %s)  %s  in %s, %s env steps, %s\n",
			percent(first.SuccessRate), t.paint("1", percent(last.SuccessRate)), percent(low), percent(high),
			Sparkline(rates, 40), Count(n, "iteration"), short(float64(last.EnvSteps)), duration(seconds))
	} else {
		fmt.Fprintln(t.w, "no iteration was committed")
	}
	if line := evaluationLine(events); line != "" {
		fmt.Fprintln(t.w, line)
	}
	for _, l := range next {
		fmt.Fprintln(t.w, l)
	}
}

// evaluationLine compares the first evaluation with the last one. It is empty if there are not two.
func evaluationLine(events []store.Event) string {
	var first, last *store.Event
	for i, e := range events {
		if e.Evaluation == nil {
			continue
		}
		if last = &events[i]; first == nil {
			first = last
		}
	}
	if first == last || first.Iteration == last.Iteration { // also if an iteration was executed twice
		return ""
	}
	before := "before"
	if first.Iteration > 0 {
		before = fmt.Sprintf("after iteration %d", first.Iteration)
	}
	interval := func(e *store.Evaluation) string {
		low, high := stats.Wilson(e.SuccessRate, e.Episodes)
		return fmt.Sprintf("95 %%: %s to %s", percent(low), percent(high))
	}
	return fmt.Sprintf("greedy  %s (%s) %s → %s (%s) after iteration %d, %d episodes each",
		percent(first.Evaluation.SuccessRate), interval(first.Evaluation), before,
		percent(last.Evaluation.SuccessRate), interval(last.Evaluation), last.Iteration, last.Evaluation.Episodes)
}

// Sparkline draws rates from 0 to 1 as at most width blocks. NaN is a space.
func Sparkline(rates []float64, width int) string {
	const blocks = "▁▂▃▄▅▆▇█"
	n := len(rates)
	cells := min(n, max(1, width))
	var b strings.Builder
	for c := range cells {
		sum, k := 0.0, 0
		for _, r := range rates[c*n/cells : max(c*n/cells+1, (c+1)*n/cells)] {
			if !math.IsNaN(r) {
				sum += r
				k++
			}
		}
		if k == 0 {
			b.WriteByte(' ')
			continue
		}
		i := int(math.Round(min(max(sum/float64(k), 0), 1) * float64(utf8.RuneCountInString(blocks)-1)))
		b.WriteRune([]rune(blocks)[i])
	}
	return b.String()
}
