package bench

import (
	"context"
	"fmt"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
)

// OverheadOptions say how the host's overhead is measured.
type OverheadOptions struct {
	// Lanes to measure; default 1, 8, 64, 256.
	Lanes []int
	// Frames are sides of the observed picture, pixels; 0: none, 8 numbers only. Default 64 and 0.
	Frames []int
	// Repeats of each measurement, default 5; Seconds that one takes, default 0.6.
	Repeats int
	Seconds float64
	// Alone also measures a process a lane.
	Alone bool
}

// way is one way to roll, compared with gymnasium's.
type way struct {
	name, key string
	chunk     int
	policy    bool // in a process of its own
	alone     bool
}

// Overhead measures microseconds of the clock for one env step of one lane with an env that does nothing,
// beside gymnasium's AsyncVectorEnv.
func Overhead(ctx context.Context, t Tools, o OverheadOptions) (Section, error) {
	if len(o.Lanes) == 0 {
		o.Lanes = []int{1, 8, 64, 256}
	}
	if len(o.Frames) == 0 {
		o.Frames = []int{64, 0}
	}
	if o.Repeats == 0 {
		o.Repeats = 5
	}
	if o.Seconds == 0 {
		o.Seconds = 0.6
	}
	ways := []way{
		{"chunk 8, policy process", "chunk8", 8, true, false},
		{"chunk 1, policy process", "chunk1", 1, true, false},
		{"chunk 1, env only", "chunk1_env", 1, false, false},
	}
	if o.Alone {
		ways = append(ways, way{"a process a lane: chunk 8, policy process", "alone_chunk8", 8, true, true},
			way{"a process a lane: chunk 1, env only", "alone_chunk1_env", 1, false, true})
	}
	s := Section{Name: "host", Title: "Host overhead an env step",
		Text: "Microseconds of the clock for one step of one lane, with an env and a policy that do nothing: wall " +
			"time over all " +
			"steps of all lanes, median of " + fmt.Sprint(o.Repeats) +
			" runs in alternation, and in brackets the median ratio to gymnasium's run of the same round (below 1: " +
			"less than " +
			"gymnasium). Everything of a real run is in it: processes, gRPC, mutual TLS, shared memory, deadlines, " +
			"checks, scheduler, the copy out of shared memory, Reset.\n\n" +
			"- gymnasium: `AsyncVectorEnv(shared_memory=True, copy=False)`, a process a lane. It steps one action at a " +
			"time, and its actions come from the process that steps it.\n" +
			"- chunk 8: how srpo runs a policy that emits chunks of 8 actions, as OpenVLA-OFT does. One Step call " +
			"executes 8 env steps; the frame at its end goes to the host and " +
			"on to the policy's process. Frames in between are not rendered, because nobody looks at them.\n" +
			"- chunk 1, policy process: two calls between processes for each env step, where gymnasium has one.\n" +
			"- chunk 1, env only: the policy is a function in the host's process, as gymnasium's. This is the " +
			"like-for-like comparison of one step.\n" +
			"- lanes share one env process, as those of tabletop do, but for \"a process a lane\", as those of libero " +
			"do, and gymnasium's."}
	if t.Python.Argv == nil {
		s.Text += "\n\nWithout gymnasium: its Python environment was left out."
	}
	return s, measured(&s, func() error {
		for _, frame := range o.Frames {
			var cpu Table
			table := Table{Title: "No frame: 8 numbers are observed.", Columns: []string{"lanes", "gymnasium"}}
			if frame > 0 {
				table.Title = fmt.Sprintf("A %d x %d frame is observed.", frame, frame)
			}
			for _, w := range ways {
				table.Columns = append(table.Columns, w.name)
			}
			for _, lanes := range o.Lanes {
				t.Say("host overhead: %d lanes, frame %d", lanes, frame)
				row, cpuRow, err := overheadRow(ctx, t, o, ways, lanes, frame)
				if err != nil {
					return err
				}
				table.Rows, cpu.Rows = append(table.Rows, row), append(cpu.Rows, cpuRow)
			}
			cpu.Columns = table.Columns
			cpu.Title = strings.TrimSuffix(table.Title, ".") +
				": microseconds of processor time instead, of all processes together."
			s.Tables = append(s.Tables, table, cpu)
		}
		return nil
	})
}

func overheadRow(ctx context.Context, t Tools, o OverheadOptions, ways []way, lanes, frame int) (row, cpuRow Row,
	err error) {
	row = Row{Cells: []string{fmt.Sprint(lanes)}, Values: map[string]float64{"lanes": float64(lanes)}}
	var vector *talker
	if t.Python.Argv != nil {
		if vector, err = talk(t.script("vector.py")); err != nil {
			return row, row, err
		}
		defer vector.close()
	}
	var theirs, theirCPU []float64
	ours, ourCPU := make([][]float64, len(ways)), make([][]float64, len(ways))
	gym := func(seconds float64) (us, cpu float64, err error) {
		if vector == nil {
			return 0, 0, nil
		}
		var answer struct{ Us, Steps, Warm float64 }
		before := cpuSeconds(vector.cmd.Process.Pid)
		err = vector.ask(ctx, map[string]any{"lanes": lanes, "frame": frame, "seconds": seconds}, &answer)
		return answer.Us, (cpuSeconds(vector.cmd.Process.Pid) - before) / (answer.Steps +
			answer.Warm) / float64(lanes) * 1e6, err
	}
	if _, _, err := gym(0.1); err != nil {
		return row, row, err
	}
	rigs, lengths := make([]*rig, len(ways)), make([]int, len(ways))
	for i, w := range ways {
		ro := rigOptions{env: t.Env, lanes: lanes, alone: w.alone, chunk: w.chunk, see: frame > 0, arenaMB: t.ArenaMB}
		if frame > 0 {
			ro.envSettings = plugins.Settings{"frame": int64(frame)}
		}
		if w.policy {
			ro.policy = &t.Policy
		}
		r, err := newRig(ctx, ro)
		if err != nil {
			return row, row, err
		}
		defer r.close()
		if lengths[i], err = r.length(ctx, o.Seconds); err != nil {
			return row, row, err
		}
		rigs[i] = r
	}
	for range o.Repeats {
		us, cpu, err := gym(o.Seconds)
		if err != nil {
			return row, row, err
		}
		theirs, theirCPU = append(theirs, us), append(theirCPU, cpu)
		for i, r := range rigs {
			spent, err := r.roll(ctx, lengths[i])
			if err != nil {
				return row, row, err
			}
			ours[i], ourCPU[i] = append(ours[i], spent.us()), append(ourCPU[i], spent.cpuUs())
		}
	}
	cpu := Row{Cells: row.Cells[:1:1], Values: row.Values}
	if vector == nil {
		row.Cells, cpu.Cells = append(row.Cells, "-"), append(cpu.Cells, "-")
	} else {
		row.Values["gymnasium_us"], row.Values["gymnasium_cpu_us"] = median(theirs), median(theirCPU)
		row.Cells, cpu.Cells = append(row.Cells, number(median(theirs))), append(cpu.Cells, number(median(theirCPU)))
	}
	for i, w := range ways {
		for _, x := range []struct {
			to           *Row
			key          string
			ours, theirs []float64
		}{{&row, w.key, ours[i], theirs}, {&cpu, w.key + "_cpu", ourCPU[i], theirCPU}} {
			row.Values[x.key+"_us"] = median(x.ours)
			cell := number(median(x.ours))
			// processor time is counted in hundredths of a second: a very short run may have none
			if rounds := ratios(x.ours, x.theirs); vector != nil && len(rounds) > 0 {
				r := median(rounds)
				row.Values[x.key+"_ratio"] = r
				cell += fmt.Sprintf(" (%.2f)", r)
			}
			x.to.Cells = append(x.to.Cells, cell)
		}
	}
	return row, cpu, nil
}

// number shows a measured time with three digits.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
