package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
)

// EncoderOptions are the settings of [Encode].
type EncoderOptions struct {
	Encoder supervise.Launch
	// Resolve returns the settings of the encoder, given those that it declares; nil takes the defaults.
	Resolve func(declared []plugins.Setting) (plugins.Settings, error)
	// Lengths are the lengths of the clips in frames, default 16 and 64; Side is the side of a frame in pixels,
	// default 256.
	Lengths []int
	Side    int
	// Episode is the length in frames of the episode whose progress curve is computed, from so many
	// Windows; default 200 and 32. A negative Episode omits the curve.
	Episode, Windows int
	// Repeats is the number of calls per length of clip, default 5. The progress curve is computed half as
	// often.
	Repeats int
}

// durations are the wall and processor times of several calls in seconds.
type durations struct{ wall, cpu []float64 }

// encoderRun is a running encoder to measure.
type encoderRun struct {
	Tools
	EncoderOptions
	client encoder.Encoder
	worker *supervise.ProcessWorker[encoder.Encoder]
}

// Encode measures an encoder's clips per second through the host, and a progress curve in one call
// (EncodeWindows) beside one call of Encode per window. It fails if the vectors of the two differ by more
// than 1e-3 of the largest number.
func Encode(ctx context.Context, t Tools, o EncoderOptions) (Section, error) {
	orDefault(&o.Side, 256)
	orDefault(&o.Episode, 200)
	orDefault(&o.Windows, 32)
	orDefault(&o.Repeats, 5)
	if len(o.Lengths) == 0 {
		o.Lengths = []int{16, 64}
	}
	s := Section{Name: "encoder", Title: "Clips per second of " + o.Encoder.Name,
		Text: fmt.Sprintf("From the host's call to the reply, clips of %d x %[1]d pixels, median of %d calls. "+
			"Processor time is that of the encoder's process on all cores. Other programs on the machine disturb it "+
			"less than wall time.", o.Side, o.Repeats)}
	return s, measured(&s, func() error {
		super, err := supervise.New(supervise.Options{StartTimeout: startTimeout,
			ArenaBytes: max(t.ArenaMB, 64) << 20, Deadlines: supervise.Deadlines{Encode: 24 * time.Hour}})
		if err != nil {
			return err
		}
		defer super.Close()
		run := encoderRun{Tools: t, EncoderOptions: o}
		if err := run.start(ctx, super); err != nil {
			return err
		}
		clips, err := run.clips(ctx)
		if err != nil {
			return err
		}
		s.Tables = append(s.Tables, clips)
		if o.Episode < 0 {
			return nil
		}
		curve, err := run.curve(ctx)
		if err != nil {
			return err
		}
		s.Tables = append(s.Tables, curve)
		return nil
	})
}

func (r *encoderRun) start(ctx context.Context, super *supervise.Supervisor) (err error) {
	r.worker = supervise.NewEncoder(super, r.EncoderOptions.Encoder, func(ctx context.Context,
		e encoder.Encoder) error {
		settings, err := resolve(ctx, e, r.Resolve)
		if err != nil {
			return err
		}
		return e.Configure(ctx, plugins.Config{Settings: settings, WorldSize: 1})
	})
	r.client, _, err = r.worker.Client(ctx)
	return err
}

// resolve returns the settings to configure a plugin with.
func resolve(ctx context.Context, p plugins.Plugin,
	from func([]plugins.Setting) (plugins.Settings, error)) (plugins.Settings, error) {
	info, err := p.Info(ctx)
	if err != nil {
		return nil, err
	}
	if from != nil {
		return from(info.Settings)
	}
	return plugins.Resolve(info.Settings, nil)
}

// time runs f and appends its durations to d.
func (r *encoderRun) time(d *durations, f func() error) error {
	group := r.worker.Process().PID()
	cpu, began := cpuSeconds(group), time.Now()
	err := f()
	d.wall, d.cpu = append(d.wall, time.Since(began).Seconds()), append(d.cpu, cpuSeconds(group)-cpu)
	return err
}

// clips measures one clip per call.
func (r *encoderRun) clips(ctx context.Context) (Table, error) {
	spec, err := r.client.Describe(ctx)
	if err != nil {
		return Table{}, err
	}
	table := Table{Title: fmt.Sprintf("One clip per call; vectors of %d numbers.", spec.Dimension), Columns: []string{
		"frames", "s per clip", "10 %", "90 %", "clips/s", "frames/s", "processor s per clip"}}
	for _, length := range r.Lengths {
		r.Progress("%s: %d clips of %d frames", r.EncoderOptions.Encoder.Name, r.Repeats, length)
		clip, took := movingSquare(length, r.Side), durations{}
		encode := func() error {
			_, err := r.client.Encode(ctx, []plugins.Tensor{clip})
			return err
		}
		if err := encode(); err != nil { // warm-up
			return table, err
		}
		for range r.Repeats {
			if err := r.time(&took, encode); err != nil {
				return table, err
			}
		}
		wall, cpu := median(took.wall), median(took.cpu)
		table.Rows = append(table.Rows, Row{
			Cells: []string{fmt.Sprint(length), number(wall), number(quantile(took.wall, 0.1)),
				number(quantile(took.wall, 0.9)), number(1 / wall), number(float64(length) / wall), number(cpu)},
			Values: map[string]float64{"frames": float64(length), "clip_s": wall, "clip_cpu_s": cpu}})
	}
	return table, nil
}

// curve measures a progress curve in one call and in one call per window, in alternation.
func (r *encoderRun) curve(ctx context.Context) (Table, error) {
	windower, ok := r.client.(encoder.Windower)
	if !ok {
		return Table{}, plugins.Errorf(plugins.Internal, "%T does not implement EncodeWindows", r.client)
	}
	name, rounds := r.EncoderOptions.Encoder.Name, (r.Repeats+1)/2
	episode := movingSquare(r.Episode, r.Side)
	var ends []int
	for i := 1; i <= r.Windows; i++ {
		ends = append(ends, max(1, i*r.Episode/r.Windows))
	}
	var together, each durations
	for i := range rounds {
		r.Progress("%s: a progress curve of %d frames in %d windows, %d of %d", name, r.Episode, r.Windows, i+1,
			rounds)
		var windows, clips [][]float32
		if err := r.time(&together, func() (err error) {
			windows, err = windower.EncodeWindows(ctx, episode, ends)
			return err
		}); err != nil {
			return Table{}, err
		}
		if err := r.time(&each, func() (err error) {
			clips, err = r.clipByClip(ctx, episode,
				ends)
			return err
		}); err != nil {
			return Table{}, err
		}
		if d := relativeDifference(windows, clips); !(d <= 1e-3) {
			return Table{}, plugins.Errorf(plugins.Corrupt, "EncodeWindows of %s differs from Encode by %.2g",
				name, d).
				WithHint("srpo plugin test %s", name)
		}
	}
	table := Table{Title: fmt.Sprintf("A progress curve: %d growing windows of an episode of %d frames.", r.Windows,
		r.Episode), Columns: []string{"way", "s", "processor s", "speedup"}}
	for _, way := range []struct {
		name, key string
		durations
	}{{"one clip per call (Encode)", "each", each}, {"all windows in one call (EncodeWindows)", "together",
		together}} {
		wall, cpu := median(way.wall), median(way.cpu)
		faster := median(each.wall) / wall
		table.Rows = append(table.Rows, Row{Cells: []string{way.name, number(wall), number(cpu), number(faster)},
			Values: map[string]float64{"curve_" + way.key + "_s": wall, "curve_" + way.key + "_cpu_s": cpu,
				"curve_" + way.key + "_faster": faster}})
	}
	return table, nil
}

// clipByClip encodes each window of an episode as a clip of its own.
func (r *encoderRun) clipByClip(ctx context.Context, episode plugins.Tensor, ends []int) ([][]float32, error) {
	var out [][]float32
	for _, end := range ends {
		clip := plugins.Bytes(episode.Data[:end*r.Side*r.Side*3], end, r.Side, r.Side, 3)
		vectors, err := r.client.Encode(ctx, []plugins.Tensor{clip})
		if err != nil {
			return nil, err
		}
		out = append(out, vectors...)
	}
	return out, nil
}

// relativeDifference returns the largest difference between two lists of vectors over the largest absolute
// number of a.
func relativeDifference(a, b [][]float32) float64 {
	var difference, largest float32
	for i := range a {
		for k := range a[i] {
			difference = max(difference, a[i][k]-b[i][k], b[i][k]-a[i][k])
			largest = max(largest, a[i][k], -a[i][k])
		}
	}
	if difference == 0 {
		return 0
	}
	return float64(difference / largest)
}

// movingSquare returns a clip [length, side, side, 3] of a bright square that crosses a textured background.
func movingSquare(length, side int) plugins.Tensor {
	data := make([]byte, length*side*side*3)
	for t := range length {
		at := t * (side - side/4) / max(1, length)
		for y := range side {
			for x := range side {
				i := ((t*side+y)*side + x) * 3
				data[i], data[i+1], data[i+2] = byte(x*120/side), byte(y*120/side), byte((x*7+y*13)%50)
				if y >= side/3 && y < side/3+side/4 && x >= at && x < at+side/4 {
					data[i], data[i+1], data[i+2] = 240, 200, 60
				}
			}
		}
	}
	return plugins.Bytes(data, length, side, side, 3)
}
