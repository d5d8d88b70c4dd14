//go:build faults

package fault

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// On reports whether this build follows fault plans.
const On = true

// planned is one fault of the plan.
type planned struct {
	who, when, name string
	k               int
	after           time.Duration // into the call; -1: none
}

var (
	plan  = parse(os.Getenv("SRPO_FAULT"))
	trace = open(os.Getenv("SRPO_FAULT_TRACE"))

	mu   sync.Mutex
	seen = map[string]int{}
)

func parse(text string) (list []planned) {
	for _, f := range strings.Split(text, ";") {
		if f == "" {
			continue
		}
		parts := strings.Split(f, ",")
		p := planned{after: -1}
		if len(parts) == 4 {
			p.who, p.when, p.name = parts[0], parts[1], parts[2]
			p.k, _ = strconv.Atoi(parts[3])
			if us, err := strconv.Atoi(p.when); err == nil {
				p.after = time.Duration(us) * time.Microsecond
			}
		}
		if p.k < 1 {
			panic("SRPO_FAULT: not a fault: " + f)
		}
		list = append(list, p)
	}
	return list
}

func open(path string) *os.File {
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		panic(err)
	}
	return f
}

// passing counts a point and returns the faults that are planned for it.
func passing(name string) (due []planned) {
	mu.Lock()
	seen[name]++
	k := seen[name]
	mu.Unlock()
	for _, p := range plan {
		if p.name == name && p.k == k {
			due = append(due, p)
		}
	}
	return due
}

func record(format string, args ...any) {
	if trace != nil {
		_, _ = fmt.Fprintf(trace, format, args...)
	}
}

// Point is a point at which the host may be killed.
func Point(name string) {
	name = Name(name)
	record("point\t%s\n", name)
	for _, p := range passing(name) {
		if p.who == "host" {
			Die()
		}
	}
}

// Torn reports whether the write at this point must be cut in the middle. The caller then writes half and calls
// Die.
func Torn(name string) bool {
	name = Name("torn " + name)
	record("torn\t%s\n", name)
	for _, p := range passing(name) {
		if p.who == "host" && p.when == "torn" {
			return true
		}
	}
	return false
}

// Die ends the process as SIGKILL does.
func Die() {
	record("died\t\n")
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// Call is a point around a call to a plugin. The plan may kill the plugin, with signal, or the host before, during
// or after the call. The caller calls the returned function at the end of the call.
func Call(name string, signal func(syscall.Signal)) func() {
	name = Name("call " + name)
	due, began := passing(name), time.Now()
	for _, p := range due {
		strike := p.strike(name, signal)
		switch {
		case p.when == "before":
			strike()
		case p.after >= 0:
			time.AfterFunc(p.after, strike)
		}
	}
	return func() {
		record("call\t%s\t%d\n", name, time.Since(began).Microseconds())
		for _, p := range due {
			if p.when == "after" {
				p.strike(name, signal)()
			}
		}
	}
}

// strike returns the function that causes the fault.
func (p planned) strike(name string, signal func(syscall.Signal)) func() {
	switch p.who {
	case "host":
		return Die
	case "stop":
		return func() { record("killed\t%s\n", name); signal(syscall.SIGSTOP) }
	}
	return func() { record("killed\t%s\n", name); signal(syscall.SIGKILL) }
}
