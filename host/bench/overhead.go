package bench

import (
	"context"
	"fmt"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
)

// OverheadOptions are the settings of [Overhead].
type OverheadOptions struct {
	// Lanes are the numbers of lanes to measure; default 1, 8, 64, 256.
	Lanes []int
	// Frames are the sides of the observed frame in pixels, default 64 and 0; with 0 an observation is 8
	// numbers.
	Frames []int
	// Repeats is the number of runs, default 5, of about Seconds each, default 0.6.
	Repeats int
	Seconds float64
	// ProcessPerLane also measures envs with one process per lane.
	ProcessPerLane bool
}

// setup is one way of running episodes that is compared with gymnasium.
type setup struct {
	name, key      string
	chunk          int
	policyProcess  bool
	processPerLane bool
}

// Overhead measures the wall time of one env step of one lane, with an idle env, beside gymnasium's
// AsyncVectorEnv.
func Overhead(ctx context.Context, t Tools, o OverheadOptions) (Section, error) {
	if len(o.Lanes) == 0 {
		o.Lanes = []int{1, 8, 64, 256}
	}
	if len(o.Frames) == 0 {
		o.Frames = []int{64, 0}
	}
	orDefault(&o.Repeats, 5)
	orDefault(&o.Seconds, 0.6)
	setups := []setup{
		{"chunk 8, policy process", "chunk8", 8, true, false},
		{"chunk 1, policy process", "chunk1", 1, true, false},
		{"chunk 1, env only", "chunk1_env", 1, false, false},
	}
	if o.ProcessPerLane {
		setups = append(setups,
			setup{"one process per lane: chunk 8, policy process", "alone_chunk8", 8, true, true},
			setup{"one process per lane: chunk 1, env only", "alone_chunk1_env", 1, false, true})
	}
	s := Section{Name: "host", Title: "Host overhead per env step", Text: overheadText(t, o)}
	return s, measured(&s, func() error {
		for _, frame := range o.Frames {
			wall, cpu := Table{Columns: []string{"lanes", "gymnasium"}}, Table{}
			for _, x := range setups {
				wall.Columns = append(wall.Columns, x.name)
			}
			observed := "An observation is 8 numbers, without a frame"
			if frame > 0 {
				observed = fmt.Sprintf("An observation has a %d x %d frame", frame, frame)
			}
			wall.Title = observed + "."
			cpu.Title, cpu.Columns = observed+": microseconds of processor time of all processes together.",
				wall.Columns
			for _, lanes := range o.Lanes {
				t.Progress("host overhead: %d lanes, frame %d", lanes, frame)
				m, err := measureOverhead(ctx, t, o, setups, lanes, frame)
				if err != nil {
					return err
				}
				values := map[string]float64{"lanes": float64(lanes)}
				wall.Rows = append(wall.Rows, m.row(values, setups, "", m.wall))
				cpu.Rows = append(cpu.Rows, m.row(values, setups, "_cpu", m.cpu))
			}
			s.Tables = append(s.Tables, wall, cpu)
		}
		return nil
	})
}

func overheadText(t Tools, o OverheadOptions) string {
	text := []string{
		fmt.Sprintf("Microseconds of wall time per step of one lane, with an env and a policy that do nothing: wall "+
			"time over all steps of all lanes, median of %d runs in alternation. In brackets: the median ratio to "+
			"gymnasium's run of the same round (below 1 is faster than gymnasium). All parts of a real run are "+
			"included: processes, gRPC, mutual TLS, shared memory, deadlines, checks, scheduler, the copy out of "+
			"shared memory, Reset.\n",
			o.Repeats),
		"- gymnasium: `AsyncVectorEnv(shared_memory=True, copy=False)`, one process per lane. It executes one " +
			"action per call, and the actions come from the process that calls it.",
		"- chunk 8: a policy that returns chunks of 8 actions, as OpenVLA-OFT does. One call of Step executes 8 env " +
			"steps. The frame at its end goes to the host and on to the policy's process. Frames in between are not " +
			"rendered.",
		"- chunk 1, policy process: two calls between processes per env step; gymnasium has one.",
		"- chunk 1, env only: the policy is a function in the host's process, as with gymnasium. This is the direct " +
			"comparison of one step.",
		"- Lanes share one env process, as in tabletop. With \"one process per lane\" they do not, as in libero and " +
			"gymnasium.",
	}
	if t.Python.Argv == nil {
		text = append(text, "\nWithout gymnasium: its Python environment was left out.")
	}
	return strings.Join(text, "\n")
}

// overhead contains microseconds per step and lane, by round: of wall time and of processor time, for each
// setup and for gymnasium.
type overhead struct {
	wall, cpu compared
	lanes     int
}

type compared struct {
	setups    [][]float64
	gymnasium []float64 // empty without Python
}

// measureOverhead runs all setups and gymnasium in alternation.
func measureOverhead(ctx context.Context, t Tools, o OverheadOptions, setups []setup, lanes, frame int) (overhead,
	error) {
	m := overhead{wall: compared{setups: make([][]float64, len(setups))},
		cpu: compared{setups: make([][]float64, len(setups))}, lanes: lanes}
	gymnasium := func(float64) error { return nil }
	if t.Python.Argv != nil {
		vector, err := startProgram(t.script("vector.py"))
		if err != nil {
			return m, err
		}
		defer vector.close()
		gymnasium = func(seconds float64) error {
			wall, cpu, err := vectorStep(ctx, vector, lanes, frame, seconds)
			m.wall.gymnasium, m.cpu.gymnasium = append(m.wall.gymnasium, wall), append(m.cpu.gymnasium, cpu)
			return err
		}
		if _, _, err := vectorStep(ctx, vector, lanes, frame, 0.1); err != nil { // starts its processes
			return m, err
		}
	}
	rigs, lengths := make([]*rig, len(setups)), make([]int, len(setups))
	for i, x := range setups {
		r, err := newRig(ctx, x.options(t, lanes, frame))
		if err != nil {
			return m, err
		}
		defer r.close()
		if lengths[i], err = r.length(ctx, o.Seconds); err != nil {
			return m, err
		}
		rigs[i] = r
	}
	for range o.Repeats {
		if err := gymnasium(o.Seconds); err != nil {
			return m, err
		}
		for i, r := range rigs {
			spent, err := r.roll(ctx, lengths[i])
			if err != nil {
				return m, err
			}
			m.wall.setups[i] = append(m.wall.setups[i], spent.us())
			m.cpu.setups[i] = append(m.cpu.setups[i], spent.cpuUs())
		}
	}
	return m, nil
}

func (x setup) options(t Tools, lanes, frame int) rigOptions {
	o := rigOptions{env: t.Env, lanes: lanes, processPerLane: x.processPerLane, chunk: x.chunk, observe: frame > 0,
		arenaMB: t.ArenaMB}
	if frame > 0 {
		o.resolve = fixed(plugins.Settings{"frame": int64(frame)})
	}
	if x.policyProcess {
		o.policy = &t.Policy
	}
	return o
}

// vectorStep runs gymnasium's vector environment and returns microseconds per step and lane, of wall time
// and of processor time.
func vectorStep(ctx context.Context, vector *program, lanes, frame int, seconds float64) (wall, cpu float64,
	err error) {
	var reply struct{ Us, Steps, Warm float64 }
	group := vector.cmd.Process.Pid
	before := cpuSeconds(group)
	err = vector.call(ctx, map[string]any{"lanes": lanes, "frame": frame, "seconds": seconds}, &reply)
	return reply.Us, (cpuSeconds(group) - before) / (reply.Steps + reply.Warm) / float64(lanes) * 1e6, err
}

// row formats one kind of time and adds its numbers to values.
func (m overhead) row(values map[string]float64, setups []setup, suffix string, times compared) Row {
	row := Row{Cells: []string{fmt.Sprint(m.lanes), "-"}, Values: values}
	if len(times.gymnasium) > 0 {
		values["gymnasium"+suffix+"_us"] = median(times.gymnasium)
		row.Cells[1] = number(median(times.gymnasium))
	}
	for i, x := range setups {
		key, us := x.key+suffix, times.setups[i]
		values[key+"_us"] = median(us)
		cell := number(median(us))
		// Processor time has a resolution of 10 ms, so short runs can have 0 and no ratio.
		if rounds := ratios(us, times.gymnasium); len(rounds) > 0 {
			values[key+"_ratio"] = median(rounds)
			cell += fmt.Sprintf(" (%.2f)", median(rounds))
		}
		row.Cells = append(row.Cells, cell)
	}
	return row
}
