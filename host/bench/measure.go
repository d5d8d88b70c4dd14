package bench

import (
	"fmt"
	"math"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// load returns the one-minute load average; 0 if it is not known.
func load() float64 {
	data, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(data), " ")
	v, _ := strconv.ParseFloat(first, 64)
	return v
}

// cpuSeconds returns the processor time, in seconds, that the processes of the given process groups have
// used. Group 0 stands for this process alone.
func cpuSeconds(groups ...int) float64 {
	const ticks = 100 // per second, on every Linux
	total := 0.0
	add := func(pid string, group bool) {
		data, _ := os.ReadFile("/proc/" + pid + "/stat")
		_, rest, ok := strings.Cut(string(data), ") ") // the name before it can contain anything
		f := strings.Fields(rest)
		if !ok || len(f) < 13 {
			return
		}
		if pgrp, _ := strconv.Atoi(f[2]); group && !slices.Contains(groups, pgrp) {
			return
		}
		user, _ := strconv.ParseFloat(f[11], 64)
		kernel, _ := strconv.ParseFloat(f[12], 64)
		total += (user + kernel) / ticks
	}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			add(e.Name(), true)
		}
	}
	if slices.Contains(groups, 0) {
		add("self", false)
	}
	return total
}

// measured runs a measurement and records load and duration in its section.
func measured(s *Section, measure func() error) error {
	began := time.Now()
	s.Load[0] = load()
	err := measure()
	s.Load[1], s.Seconds = load(), time.Since(began).Seconds()
	return err
}

// median returns the median of v; NaN for an empty list.
func median(v []float64) float64 { return quantile(v, 0.5) }

// quantile returns the q-quantile of v, linearly interpolated; NaN for an empty list.
func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	v = slices.Clone(v)
	sort.Float64s(v)
	at := q * float64(len(v)-1)
	i := int(at)
	if i+1 >= len(v) {
		return v[i]
	}
	return v[i] + (at-float64(i))*(v[i+1]-v[i])
}

// ratios returns a[i]/b[i] for measurements that were taken in pairs, without pairs whose b is 0.
func ratios(a, b []float64) []float64 {
	var r []float64
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			r = append(r, a[i]/b[i])
		}
	}
	return r
}

// number formats a measured value with three digits.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// orDefault sets *v to a default if it is zero.
func orDefault[T comparable](v *T, value T) {
	if *v == *new(T) {
		*v = value
	}
}
