package tabletop

import (
	"fmt"
	"testing"

	"github.com/srpo-dev/srpo/plugins/env"
)

// BenchmarkStep reports steps per second of one lane in chunks of 8 actions by the expert: without
// rendering, with one frame per chunk as a policy requests, and with a frame every step.
func BenchmarkStep(b *testing.B) {
	cases := []struct {
		name   string
		size   int
		render env.Render
	}{
		{"nothing", 64, env.Render{}},
		{"observe/64", 64, env.Render{Observe: []string{"front"}}},
		{"observe+record4/64", 64, env.Render{Observe: []string{"front"}, Record: "front", RecordEvery: 4}},
		{"every/64", 64, env.Render{Record: "front", RecordEvery: 1}},
		{"every/256", 256, env.Render{Record: "front", RecordEvery: 1}},
	}
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			e := open(b, 1, c.size, nil)
			steps, episode := 0, 0
			done := true
			b.ReportAllocs()
			for b.Loop() {
				if done {
					reset(b, e, env.Reset{Task: "tabletop/two_blocks", StartState: episode % startStates,
						Seed: uint64(episode), Render: c.render})
					episode++
				}
				tr := stepExpert(b, e, env.ExpertStep{Steps: 8, Noise: 0.1, Render: c.render})
				steps += tr.StepsDone
				done = tr.Done()
			}
			b.ReportMetric(float64(steps)/b.Elapsed().Seconds(), "steps/s")
		})
	}
}

// BenchmarkLanes steps many lanes concurrently.
func BenchmarkLanes(b *testing.B) {
	for _, lanes := range []int{1, 64, 1024} {
		b.Run(fmt.Sprint(lanes), func(b *testing.B) {
			e := open(b, lanes, 64, nil)
			free := make(chan int, lanes)
			done := make([]bool, lanes)
			for i := range lanes {
				free <- i
				done[i] = true
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					lane := <-free
					if done[lane] {
						reset(b, e, env.Reset{Lane: lane, Task: "tabletop/two_blocks", Seed: uint64(lane)})
					}
					s := env.ExpertStep{Lane: lane, Steps: 8, Render: env.Render{Observe: []string{"front"}}}
					done[lane] = stepExpert(b, e, s).Done()
					free <- lane
				}
			})
			b.ReportMetric(float64(8*b.N)/b.Elapsed().Seconds(), "steps/s")
		})
	}
}
