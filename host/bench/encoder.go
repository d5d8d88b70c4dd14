package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
)

// EncoderOptions say how an encoder is measured.
type EncoderOptions struct {
	Encoder supervise.Launch
	// Resolve gives the settings for those that the encoder declares; nil: its defaults.
	Resolve func(declared []plugins.Setting) (plugins.Settings, error)
	// Lengths of clips in frames; default 16 and 64. Side of the frames, pixels; default 256.
	Lengths []int
	Side    int
	// Episode is the length in frames of the episode whose progress curve is made, of so many Windows;
	// default 200 and 32. Negative: none is made.
	Episode, Windows int
	// Repeats of each clip; default 5. The progress curve is made once in each way for every second one.
	Repeats int
}

// encoding is how long one way took, wall and processor time of the plugin's process.
type encoding struct{ wall, cpu []float64 }

// Encode measures an encoder's clips a second through the host's path, and a progress curve in one call
// (EncodeWindows) beside one Encode a window, whose vectors must be the same to 1e-3.
func Encode(ctx context.Context, t Tools, o EncoderOptions) (Section, error) {
	for to, v := range map[*int]int{&o.Side: 256, &o.Episode: 200, &o.Windows: 32, &o.Repeats: 5} {
		if *to == 0 {
			*to = v
		}
	}
	if len(o.Lengths) == 0 {
		o.Lengths = []int{16, 64}
	}
	s := Section{Name: "encoder", Title: "Clips a second of " + o.Encoder.Name,
		Text: fmt.Sprintf("From the host's call to its answer, clips of %d x %[1]d pixels, median of %d calls. "+
			"Processor time is "+
			"that of the encoder's process on all cores, which other programs on the machine disturb less than time.",
			o.Side, o.Repeats)}
	return s, measured(&s, func() error {
		super, err := supervise.New(supervise.Options{StartTimeout: startTimeout,
			ArenaBytes: max(t.ArenaMB, 64) << 20, Deadlines: supervise.Deadlines{Encode: 24 * time.Hour}})
		if err != nil {
			return err
		}
		defer super.Close()
		w := supervise.NewEncoder(super, o.Encoder, func(ctx context.Context, e encoder.Encoder) error {
			info, err := e.Info(ctx)
			if err != nil {
				return err
			}
			settings, err := plugins.Resolve(info.Settings, nil)
			if o.Resolve != nil {
				settings, err = o.Resolve(info.Settings)
			}
			if err != nil {
				return err
			}
			return e.Configure(ctx, plugins.Config{Settings: settings, WorldSize: 1})
		})
		e, _, err := w.Client(ctx)
		if err != nil {
			return err
		}
		windower, ok := e.(encoder.Windower)
		if !ok {
			return plugins.Errorf(plugins.Internal, "%T gives no windows", e)
		}
		spec, err := e.Describe(ctx)
		if err != nil {
			return err
		}
		timed := func(to *encoding, f func() error) error {
			group := w.Process().PID()
			before, began := cpuSeconds(group), time.Now()
			err := f()
			to.wall, to.cpu = append(to.wall, time.Since(began).Seconds()), append(to.cpu, cpuSeconds(group)-before)
			return err
		}
		clips := Table{Title: fmt.Sprintf("One clip a call; vectors of %d numbers.", spec.Dimension),
			Columns: []string{"frames", "s a clip", "10 %", "90 %", "clips/s", "frames/s", "processor s a clip"}}
		for _, length := range o.Lengths {
			t.Say("%s: %d clips of %d frames", o.Encoder.Name, o.Repeats, length)
			clip, took := moving(length, o.Side), encoding{}
			if _, err := e.Encode(ctx, []plugins.Tensor{clip}); err != nil { // warms
				return err
			}
			for range o.Repeats {
				if err := timed(&took, func() error {
					_, err := e.Encode(ctx,
						[]plugins.Tensor{clip})
					return err
				}); err != nil {
					return err
				}
			}
			mid := median(took.wall)
			clips.Rows = append(clips.Rows, Row{Cells: []string{fmt.Sprint(length), number(mid),
				number(quantile(took.wall, 0.1)), number(quantile(took.wall, 0.9)), number(1 / mid),
				number(float64(length) / mid), number(median(took.cpu))},
				Values: map[string]float64{"frames": float64(length), "clip_s": mid,
					"clip_cpu_s": median(took.cpu)}})
		}
		s.Tables = append(s.Tables, clips)
		if o.Episode < 0 {
			return nil
		}

		episode := moving(o.Episode, o.Side)
		var ends []int
		for i := 1; i <= o.Windows; i++ {
			ends = append(ends, max(1, i*o.Episode/o.Windows))
		}
		var together, each encoding
		for i := range (o.Repeats + 1) / 2 {
			t.Say("%s: a progress curve of %d frames in %d windows, %d of %d", o.Encoder.Name, o.Episode,
				o.Windows, i+1, (o.Repeats+1)/2)
			var windows, alone [][]float32
			if err := timed(&together, func() (err error) {
				windows, err = windower.EncodeWindows(ctx, episode,
					ends)
				return err
			}); err != nil {
				return err
			}
			if err := timed(&each, func() error {
				for _, end := range ends {
					cut := plugins.Bytes(episode.Data[:end*o.Side*o.Side*3], end, o.Side, o.Side, 3)
					rows, err := e.Encode(ctx, []plugins.Tensor{cut})
					if err != nil {
						return err
					}
					alone = append(alone, rows...)
				}
				return nil
			}); err != nil {
				return err
			}
			if worst := largest(windows, alone); !(worst <= 1e-3) {
				return plugins.Errorf(plugins.Corrupt, "%s gives other vectors for windows than for clips that are "+
					"cut: they differ by %.2g", o.Encoder.Name, worst).
					WithHint("srpo plugin test %s", o.Encoder.Name)
			}
		}
		curve := Table{Title: fmt.Sprintf("A progress curve: %d growing windows of an episode of %d frames.",
			o.Windows, o.Episode), Columns: []string{"way", "s", "processor s", "times faster"}}
		for _, way := range []struct {
			name, key string
			encoding
		}{{"clip by clip (Encode)", "each", each}, {"all windows at once (EncodeWindows)", "together", together}} {
			faster := median(each.wall) / median(way.wall)
			curve.Rows = append(curve.Rows, Row{Cells: []string{way.name, number(median(way.wall)),
				number(median(way.cpu)), number(faster)},
				Values: map[string]float64{"curve_" + way.key + "_s": median(way.wall), "curve_" + way.key +
					"_cpu_s": median(way.cpu), "curve_" + way.key + "_faster": faster}})
		}
		s.Tables = append(s.Tables, curve)
		return nil
	})
}

// largest is the largest difference of two lists of vectors, relative to the largest number.
func largest(a, b [][]float32) float64 {
	var d, n float32
	for i := range a {
		for k := range a[i] {
			d, n = max(d, a[i][k]-b[i][k], b[i][k]-a[i][k]), max(n, a[i][k], -a[i][k])
		}
	}
	if d == 0 {
		return 0
	}
	return float64(d / n)
}

// moving is a clip of a bright square that crosses a textured ground.
func moving(length, side int) plugins.Tensor {
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
