package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"

	"github.com/srpo-dev/srpo/plugins"
)

// LiberoOptions are the settings of [Libero].
type LiberoOptions struct {
	// Task is the ID of the task; default: the first task of libero_object.
	Task string
	// Steps is the number of env steps per run, default 96; Chunk those per call of Step, default 8; Size
	// the side of a frame in pixels, default 256.
	Steps, Chunk, Size int
	// Lanes are the numbers of lanes to measure, each lane in its own process; default 1 and 2.
	Lanes []int
	// Repeats is the number of runs of each pair; default 3.
	Repeats int
}

// Libero compares the libero plugin, in its own process and through the host, with the unmodified
// OffScreenRenderEnv, which renders at every step.
func Libero(ctx context.Context, t Tools, o LiberoOptions) (Section, error) {
	orDefault(&o.Task, "libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket")
	orDefault(&o.Steps, 96)
	orDefault(&o.Chunk, 8)
	orDefault(&o.Size, 256)
	orDefault(&o.Repeats, 3)
	if len(o.Lanes) == 0 {
		o.Lanes = []int{1, 2}
	}
	s := Section{Name: "libero", Title: "Steps per second of libero",
		Text: fmt.Sprintf("Task %s, agentview at %d x %d, %d steps per run, the same actions on both sides, one "+
			"process per lane. reference: the unmodified `OffScreenRenderEnv`, which renders every step. lane: the "+
			"plugin's lane in its own process, which renders at the end of each chunk of %d actions. Both times are "+
			"those of the steps, without Reset; median of %d pairs in alternation. host: the same lane as a run "+
			"uses it, with an idle policy process; inside Step, and over whole episodes with Reset and its ten "+
			"waiting steps.", o.Task, o.Size, o.Size, o.Steps, o.Chunk, o.Repeats)}
	return s, measured(&s, func() error {
		t.Progress("libero: comparing states and pixels with the unmodified env")
		equal, err := liberoEqual(ctx, t, o)
		if err != nil {
			return err
		}
		table := Table{Title: "Env steps per second, all lanes together.", Columns: []string{"lanes", "reference",
			"lane", "ratio", "host, in Step", "host, whole episodes", "states and pixels"}}
		for _, lanes := range o.Lanes {
			row, err := liberoRow(ctx, t, o, lanes)
			if err != nil {
				return err
			}
			row.Cells = append(row.Cells, equal.String())
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

// equality is the result of the libero package's bench.py.
type equality struct {
	BitEqual  bool     `json:"bit_equal"`
	Differing []string `json:"differing"`
}

func (e equality) String() string {
	if e.BitEqual {
		return "bit-identical"
	}
	return fmt.Sprint("differ: ", e.Differing)
}

// liberoEqual runs the package's bench.py, which compares every state and every rendered pixel with the
// reference.
func liberoEqual(ctx context.Context, t Tools, o LiberoOptions) (e equality, err error) {
	l := t.Libero
	l.Argv = append([]string(nil), l.Argv...)
	l.Argv[len(l.Argv)-1] = l.Dir + "/bench.py"
	b, err := startProgram(l, "--task", o.Task, "--chunk", fmt.Sprint(o.Chunk), "--steps", fmt.Sprint(o.Steps),
		"--size",
		fmt.Sprint(o.Size))
	if err != nil {
		return e, err
	}
	defer b.close()
	defer context.AfterFunc(ctx, b.kill)()
	for { // skip what the libraries print at import
		line, err := b.out.ReadBytes('\n')
		if err != nil {
			return e, plugins.Errorf(plugins.Unavailable, "bench.py ended without a result: %w", err).
				WithPlace("%s", b.name).WithDetail(b.stderr.String()).WithHint("run it by hand in the plugin's " +
				"environment")
		}
		if json.Unmarshal(line, &e) == nil && line[0] == '{' {
			return e, nil
		}
	}
}

// liberoRow measures one number of lanes.
func liberoRow(ctx context.Context, t Tools, o LiberoOptions, lanes int) (Row, error) {
	row := Row{Cells: []string{fmt.Sprint(lanes)}, Values: map[string]float64{"lanes": float64(lanes)}}
	t.Progress("libero: %d lanes against the reference", lanes)
	rates, err := liberoPairs(ctx, t, o, lanes)
	if err != nil {
		return row, err
	}
	t.Progress("libero: %d lanes through the host", lanes)
	whole, inStep, err := throughHost(ctx, rigOptions{env: t.Libero, policy: &t.Policy, lanes: lanes,
		processPerLane: true,
		chunk:          o.Chunk, observe: true, wave: 0.5, task: o.Task, arenaMB: t.ArenaMB}, o.Repeats, 0)
	if err != nil {
		return row, err
	}
	ratio := median(ratios(rates["plugin"], rates["reference"]))
	maps.Copy(row.Values, map[string]float64{"reference_per_s": median(rates["reference"]),
		"lane_per_s": median(rates["plugin"]), "ratio": ratio, "host_step_per_s": median(inStep),
		"host_per_s": median(whole)})
	row.Cells = append(row.Cells, number(median(rates["reference"])), number(median(rates["plugin"])),
		fmt.Sprintf("%.1f", ratio), number(median(inStep)), number(median(whole)))
	return row, nil
}

// liberoPairs runs the reference and the plugin's lanes in alternation and returns the steps per second of
// each.
func liberoPairs(ctx context.Context, t Tools, o LiberoOptions, lanes int) (map[string][]float64, error) {
	sides := []string{"reference", "plugin"}
	programs := map[string]programs{}
	for _, side := range sides {
		p, err := liberoLanes(ctx, t, o, side, lanes)
		if err != nil {
			return nil, err
		}
		defer p.close()
		programs[side] = p
	}
	rates := map[string][]float64{}
	for range o.Repeats {
		for _, side := range sides {
			seconds, err := programs[side].call(ctx, map[string]any{"run": true})
			if err != nil {
				return nil, err
			}
			rate := 0.0
			for _, s := range seconds {
				rate += float64(o.Steps) / s
			}
			rates[side] = append(rates[side], rate)
		}
	}
	return rates, nil
}

// liberoLanes starts one process per lane and waits until all are ready.
func liberoLanes(ctx context.Context, t Tools, o LiberoOptions, side string, lanes int) (programs, error) {
	l := t.Libero
	l.Env = maps.Clone(t.Libero.Env)
	if l.Env == nil {
		l.Env = map[string]string{}
	}
	l.Env["PYTHONPATH"] = l.Dir + ":" + l.Env["PYTHONPATH"]
	l.Argv = append([]string(nil), l.Argv...)
	l.Argv[len(l.Argv)-1] = t.Python.Dir + "/libero_lane.py"
	var all programs
	for range lanes {
		p, err := startProgram(l, side, o.Task, fmt.Sprint(o.Steps), fmt.Sprint(o.Chunk), fmt.Sprint(o.Size))
		if err != nil {
			all.close()
			return nil, err
		}
		all = append(all, p)
	}
	if _, err := all.call(ctx, nil); err != nil {
		all.close()
		return nil, err
	}
	return all, nil
}

// programs run at the same time, one per lane.
type programs []*program

func (all programs) close() {
	var wg sync.WaitGroup
	for _, p := range all {
		wg.Go(p.close)
	}
	wg.Wait()
}

// call calls all programs at the same time and returns the seconds of each reply.
func (all programs) call(ctx context.Context, request any) ([]float64, error) {
	seconds, errs := make([]float64, len(all)), make([]error, len(all))
	var wg sync.WaitGroup
	for i, p := range all {
		wg.Go(func() {
			var reply struct{ Seconds float64 }
			errs[i] = p.call(ctx, request, &reply)
			seconds[i] = reply.Seconds
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return seconds, nil
}
