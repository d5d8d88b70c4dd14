package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
)

// StepOptions say how an env's steps a second are measured.
type StepOptions struct {
	// Env is the env's process, with its settings; Task the id of the task, empty: the first one.
	Env      supervise.Launch
	Settings plugins.Settings
	Task     string
	// Lanes default 1, 8, 32. Repeats default 5, Seconds of each 1.
	Lanes   []int
	Repeats int
	Seconds float64
}

// Steps measures an env's steps a second through the host, with a policy that costs nothing.
func Steps(ctx context.Context, t Tools, o StepOptions) (Section, error) {
	if len(o.Lanes) == 0 {
		o.Lanes = []int{1, 8, 32}
	}
	if o.Repeats == 0 {
		o.Repeats = 5
	}
	if o.Seconds == 0 {
		o.Seconds = 1
	}
	s := Section{Name: "step", Title: "Steps a second of " + o.Env.Name,
		Text: "Through the host's real path, with a policy that moves the arm in waves and costs nothing, episodes " +
			"from Reset to their end: steps of all lanes over wall time, median of " + fmt.Sprint(o.Repeats) +
			" runs. A picture is rendered for the policy at the end of each chunk."}
	return s, measured(&s, func() error {
		table := Table{Title: "Env steps a second, all lanes together.", Columns: []string{"lanes", "chunk 8",
			"chunk 1"}}
		for _, lanes := range o.Lanes {
			row := Row{Cells: []string{fmt.Sprint(lanes)}, Values: map[string]float64{"lanes": float64(lanes)}}
			for _, chunk := range []int{8, 1} {
				t.Say("steps of %s: %d lanes, chunk %d", o.Env.Name, lanes, chunk)
				rates, _, err := throughHost(ctx, t, rigOptions{env: o.Env, envSettings: o.Settings,
					policy: &t.Policy, lanes: lanes, chunk: chunk, see: true, wave: 0.5, task: o.Task,
					arenaMB: t.ArenaMB}, o.Repeats, o.Seconds)
				if err != nil {
					return err
				}
				row.Values[fmt.Sprintf("chunk%d_per_s", chunk)] = median(rates)
				row.Cells = append(row.Cells, fmt.Sprintf("%.0f", median(rates)))
			}
			table.Rows = append(table.Rows, row)
		}
		s.Tables = append(s.Tables, table)
		return nil
	})
}

// throughHost gives steps a second of whole episodes, and of the time inside Step alone, of each run.
func throughHost(ctx context.Context, t Tools, o rigOptions, repeats int, seconds float64) (whole,
	inStep []float64, err error) {
	r, err := newRig(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	defer r.close()
	// Episodes of the task's own length, as often as it takes.
	if _, err := r.roll(ctx, 0); err != nil { // compiles, uploads, warms
		return nil, nil, err
	}
	for range repeats {
		wall, steps, inside := 0.0, 0, 0.0
		for steps == 0 || wall < seconds {
			s, err := r.roll(ctx, 0)
			if err != nil {
				return nil, nil, err
			}
			wall, steps, inside = wall+s.wall, steps+s.steps, inside+s.inStep
		}
		whole, inStep = append(whole, float64(steps)/wall), append(inStep, float64(steps)/inside)
	}
	return whole, inStep, nil
}

// LiberoOptions say how the libero plugin is measured.
type LiberoOptions struct {
	// Task is the id of the task; Steps env steps a run, Chunk of which are one Step call, at Size x Size
	// pixels. Defaults: the first task of libero_object, 96, 8, 256.
	Task               string
	Steps, Chunk, Size int
	// Lanes, a process each; default 1 and 2.
	Lanes []int
	// Repeats of each pair, default 3.
	Repeats int
}

// Libero measures the libero plugin against the unmodified OffScreenRenderEnv, which renders every step,
// and through the host.
func Libero(ctx context.Context, t Tools, o LiberoOptions) (Section, error) {
	if o.Task == "" {
		o.Task = "libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket"
	}
	for _, d := range []struct{ v, to *int }{{&o.Steps, ptr(96)}, {&o.Chunk, ptr(8)}, {&o.Size, ptr(256)},
		{&o.Repeats, ptr(3)}} {
		if *d.v == 0 {
			*d.v = *d.to
		}
	}
	if len(o.Lanes) == 0 {
		o.Lanes = []int{1, 2}
	}
	s := Section{Name: "libero", Title: "Steps a second of libero",
		Text: fmt.Sprintf("Task %s, agentview at %d x %d, %d steps a run, the same actions on both sides, a process "+
			"a lane. "+
			"reference: the unmodified `OffScreenRenderEnv`, rendering every step as it always does. lane: the plugin's "+
			"lane in its own process, rendering at the end of each chunk of %d. "+
			"Both count the steps alone, without Reset; median of %d pairs in alternation. Through the host: the same "+
			"lane as a run uses it, with supervision, gRPC, mutual TLS, shared "+
			"memory, scheduler, and a policy process that costs nothing; inside Step, and over whole episodes, Reset "+
			"with its ten waiting steps included.", o.Task, o.Size, o.Size, o.Steps, o.Chunk, o.Repeats)}
	return s, measured(&s, func() error {
		t.Say("libero: bit equality with the unmodified env")
		equal, err := bitEqual(ctx, t, o)
		if err != nil {
			return err
		}
		table := Table{Title: "Env steps a second, all lanes together.", Columns: []string{"lanes", "reference",
			"lane", "ratio", "host, in Step", "host, whole episodes", "states and pixels"}}
		for _, lanes := range o.Lanes {
			row, err := liberoRow(ctx, t, o, lanes)
			if err != nil {
				return err
			}
			row.Cells = append(row.Cells, equal.words())
			row.Values["bit_equal"] = 0
			if equal.BitEqual {
				row.Values["bit_equal"] = 1
			}
			table.Rows = append(table.Rows, row)
		}
		s.Tables = append(s.Tables, table)
		return nil
	})
}

func ptr(n int) *int { return &n }

type equality struct {
	BitEqual  bool     `json:"bit_equal"`
	Differing []string `json:"differing"`
}

func (e equality) words() string {
	if e.BitEqual {
		return "equal to the last bit"
	}
	return fmt.Sprint("differ: ", e.Differing)
}

// bitEqual runs the package's own bench.py, which compares every state and every rendered pixel.
func bitEqual(ctx context.Context, t Tools, o LiberoOptions) (e equality, err error) {
	l := t.Libero
	l.Argv = append([]string(nil), l.Argv...)
	l.Argv[len(l.Argv)-1] = l.Dir + "/bench.py"
	b, err := talk(l, "--task", o.Task, "--chunk", fmt.Sprint(o.Chunk), "--steps", fmt.Sprint(o.Steps), "--size",
		fmt.Sprint(o.Size))
	if err != nil {
		return e, err
	}
	defer b.close()
	defer context.AfterFunc(ctx, b.kill)()
	for { // what the libraries print at import comes before the answer
		line, err := b.lines.ReadBytes('\n')
		if err != nil {
			return e, plugins.Errorf(plugins.Unavailable, "bench.py gave no answer: %w", err).WithPlace("%s",
				b.name).WithDetail(b.words.String()).
				WithHint("run it by hand in the plugin's environment")
		}
		if json.Unmarshal(line, &e) == nil && line[0] == '{' {
			return e, nil
		}
	}
}

// group is one program a lane, which all step at the same time.
type group []*talker

func (g group) close() {
	var wg sync.WaitGroup
	for _, t := range g {
		wg.Add(1)
		go func() { defer wg.Done(); t.close() }()
	}
	wg.Wait()
}

// each asks every lane at the same time and returns their answers' seconds.
func (g group) each(ctx context.Context, question any) ([]float64, error) {
	seconds, errs := make([]float64, len(g)), make([]error, len(g))
	var wg sync.WaitGroup
	for i, t := range g {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var answer struct{ Seconds float64 }
			errs[i] = t.ask(ctx, question, &answer)
			seconds[i] = answer.Seconds
		}()
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return seconds, nil
}

func liberoRow(ctx context.Context, t Tools, o LiberoOptions, lanes int) (Row, error) {
	row := Row{Cells: []string{fmt.Sprint(lanes)}, Values: map[string]float64{"lanes": float64(lanes)}}
	open := func(side string) (group, error) {
		l := t.Libero
		l.Env = map[string]string{}
		for k, v := range t.Libero.Env {
			l.Env[k] = v
		}
		l.Env["PYTHONPATH"] = l.Dir + ":" + l.Env["PYTHONPATH"]
		l.Argv = append([]string(nil), l.Argv...)
		l.Argv[len(l.Argv)-1] = t.script("libero_lane.py").Argv[len(t.Python.Argv)-1]
		var g group
		for range lanes {
			b, err := talk(l, side, o.Task, fmt.Sprint(o.Steps), fmt.Sprint(o.Chunk), fmt.Sprint(o.Size))
			if err != nil {
				g.close()
				return nil, err
			}
			g = append(g, b)
		}
		if _, err := g.each(ctx, nil); err != nil { // ready
			g.close()
			return nil, err
		}
		return g, nil
	}
	t.Say("libero: %d lanes against the reference", lanes)
	ours, err := open("ours")
	if err != nil {
		return row, err
	}
	defer ours.close()
	reference, err := open("reference")
	if err != nil {
		return row, err
	}
	defer reference.close()
	var rates [2][]float64
	for range o.Repeats {
		for i, g := range []group{reference, ours} {
			seconds, err := g.each(ctx, map[string]any{"go": true})
			if err != nil {
				return row, err
			}
			rate := 0.0
			for _, s := range seconds {
				rate += float64(o.Steps) / s
			}
			rates[i] = append(rates[i], rate)
		}
	}
	t.Say("libero: %d lanes through the host", lanes)
	whole, inStep, err := throughHost(ctx, t, rigOptions{env: t.Libero, policy: &t.Policy, lanes: lanes,
		alone: true, chunk: o.Chunk, see: true, wave: 0.5, task: o.Task, arenaMB: t.ArenaMB}, o.Repeats, 0)
	if err != nil {
		return row, err
	}
	ratio := median(ratios(rates[1], rates[0]))
	for name, v := range map[string]float64{"reference_per_s": median(rates[0]), "lane_per_s": median(rates[1]),
		"ratio": ratio, "host_step_per_s": median(inStep), "host_per_s": median(whole)} {
		row.Values[name] = v
	}
	row.Cells = append(row.Cells, number(median(rates[0])), number(median(rates[1])), fmt.Sprintf("%.1f", ratio),
		number(median(inStep)), number(median(whole)))
	return row, nil
}
