package tiny

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
)

// side is the height and width that every image is averaged to.
const side = 64

// shape is everything that fixes the number and meaning of the parameters; a checkpoint carries it.
type shape struct {
	Conv    [][3]int `json:"conv"` // channels, kernel, stride
	Vision  int      `json:"vision"`
	Hidden  int      `json:"hidden"`
	Proprio int      `json:"proprio"`
	Words   int      `json:"words"`
	Bases   int      `json:"bases"`
	Chunk   int      `json:"chunk"`
	Actions int      `json:"actions"`
	Head    string   `json:"head"`
	Bins    int      `json:"bins"` // 0 for the Gaussian head
}

// rest is the number of inputs beside the picture.
func (s shape) rest() int { return s.Proprio + s.Words + s.Bases }

// net is the network: convolutions with ReLU over the picture; from their last layer the spatial softmax and a linear layer with ReLU; these, proprio,
// words and clock go through two hidden layers with ReLU to the head's outputs. Proprio, words and clock also go there directly (skip): "this far off the path,
// steer back by so much" is linear, and two ReLU layers took three times the steps to learn half of it.
type net struct {
	shape
	convs   []conv
	flatten linear
	hidden  [2]linear
	output  linear
	skip    int // parameter index of W [outputs, rest]; it has no bias, output has one
	outputs int
	size    int // parameters
	names   []section
}

// section is a named part of the parameter vector.
type section struct {
	Name  string `json:"name"`
	Shape []int  `json:"shape"`
}

func newNet(s shape, outputs int) *net {
	n := &net{shape: s, outputs: outputs}
	take := func(name string, dims ...int) int {
		at, size := n.size, 1
		for _, d := range dims {
			size *= d
		}
		n.size += size
		n.names = append(n.names, section{name, dims})
		return at
	}
	dense := func(name string, in, out int) linear {
		return linear{in: in, out: out, w: take(name+".weight", out, in), b: take(name+".bias", out)}
	}
	h, w, c := side, side, 3
	for i, l := range s.Conv {
		v := conv{h: h, w: w, in: c, out: l[0], kernel: l[1], stride: l[2]}
		v.weight = take(fmt.Sprintf("conv%d.weight", i), v.out, v.kernel, v.kernel, v.in)
		v.bias = take(fmt.Sprintf("conv%d.bias", i), v.out)
		n.convs = append(n.convs, v)
		h, w, c = v.outH(), v.outW(), v.out
	}
	n.flatten = dense("vision", h*w*c, s.Vision)
	n.hidden[0] = dense("hidden0", n.seen()+s.rest(), s.Hidden)
	n.hidden[1] = dense("hidden1", s.Hidden, s.Hidden)
	n.output = dense("output", s.Hidden, outputs)
	n.skip = take("skip.weight", outputs, s.rest())
	return n
}

// last returns height, width and channels of the last convolution.
func (n *net) last() (h, w, c int) {
	v := n.convs[len(n.convs)-1]
	return v.outH(), v.outW(), v.out
}

// seen is the number of values that the picture is boiled down to.
func (n *net) seen() int {
	_, _, c := n.last()
	return 2*c + n.Vision
}

// multiplications of one forward pass, for benchmarks.
func (n *net) multiplications() int {
	m := n.flatten.in*n.flatten.out + n.hidden[0].in*n.Hidden + n.Hidden*n.Hidden + (n.Hidden+n.rest())*n.outputs
	for _, c := range n.convs {
		m += c.positions() * c.fan() * c.out
	}
	return m
}

// initial draws the starting weights: He normal before a ReLU, a hundredth of that at the output, and 0 in skip, so that the untrained policy is near the middle.
func (n *net) initial(seed uint64) []float32 {
	r := rand.New(rand.NewPCG(seed, 0x74696e79))
	p := make([]float32, n.size)
	fill := func(at, count, fan int, gain float64) {
		std := gain * math.Sqrt(2/float64(fan))
		for i := range count {
			p[at+i] = float32(r.NormFloat64() * std)
		}
	}
	for _, c := range n.convs {
		fill(c.weight, c.out*c.fan(), c.fan(), 1)
	}
	for _, l := range []linear{n.flatten, n.hidden[0], n.hidden[1]} {
		fill(l.w, l.out*l.in, l.in, 1)
	}
	fill(n.output.w, n.output.out*n.output.in, n.output.in, 0.01)
	return p
}

// pass is the memory for one forward and backward pass of up to maxRows samples that look at up to as many pictures. Several samples may look at one
// picture (frame), which is then convolved once.
type pass struct {
	net     *net
	frames  int
	samples int
	frame   []int     // picture of each sample
	picture []float32 // [frames, side, side, 3]
	acts    [][]float32
	prob    []float32 // [frames, h, w, c] of the last convolution
	seen    []float32 // [frames, seen]
	flat    []float32 // [frames, Vision]
	in      []float32 // [samples, seen+rest]
	h0, h1  []float32
	out     []float32 // [samples, outputs]

	dout, dh1, dh0, din []float32
	dseen, dflat, dlast []float32
	dacts               [2][]float32
	cols, dcols         []float32
}

func newPass(n *net, frames, samples int) *pass {
	if samples > maxRows || frames > samples {
		panic("tiny: a pass has at most maxRows samples and no more pictures than samples")
	}
	f := func(size int) []float32 { return make([]float32, size) }
	h, w, c := n.last()
	ps := &pass{net: n, frame: make([]int, samples), picture: f(frames * side * side * 3), prob: f(frames * h * w * c),
		seen: f(frames * n.seen()), flat: f(frames * n.Vision), in: f(samples * n.hidden[0].in), h0: f(samples * n.Hidden), h1: f(samples * n.Hidden),
		out: f(samples * n.outputs), dout: f(samples * n.outputs), dh1: f(samples * n.Hidden), dh0: f(samples * n.Hidden),
		din: f(samples * n.hidden[0].in), dseen: f(frames * n.seen()), dflat: f(frames * n.Vision), dlast: f(frames * h * w * c)}
	var cols, act int
	for _, v := range n.convs {
		ps.acts = append(ps.acts, f(frames*v.positions()*v.out))
		cols, act = max(cols, v.positions()*v.fan()), max(act, v.positions()*v.out)
	}
	ps.cols, ps.dcols = f(cols), f(cols)
	ps.dacts = [2][]float32{f(act), f(act)}
	return ps
}

// reset empties the pass.
func (ps *pass) reset() { ps.frames, ps.samples = 0, 0 }

// look adds a picture (side x side x 3 bytes; nil: zeros) and returns its index. Bytes become -1 to 1.
func (ps *pass) look(picture []byte) int {
	d := ps.picture[ps.frames*side*side*3 : (ps.frames+1)*side*side*3]
	if picture == nil {
		clear(d)
	}
	for i, b := range picture {
		d[i] = float32(b)/127.5 - 1
	}
	ps.frames++
	return ps.frames - 1
}

// add adds a sample that looks at picture f and returns its other inputs, to be filled in.
func (ps *pass) add(f int) []float32 {
	i := ps.samples
	ps.frame[i] = f
	ps.samples++
	d := ps.net.hidden[0].in
	return ps.in[i*d+ps.net.seen() : (i+1)*d]
}

// result is the head's input for sample i, gradient where the head writes its derivative.
func (ps *pass) result(i int) []float32   { return ps.out[i*ps.net.outputs : (i+1)*ps.net.outputs] }
func (ps *pass) gradient(i int) []float32 { return ps.dout[i*ps.net.outputs : (i+1)*ps.net.outputs] }

func (ps *pass) forward(p []float32) {
	n := ps.net
	h, w, c := n.last()
	area := h * w * c
	lastAct := ps.acts[len(ps.acts)-1]
	for f := range ps.frames {
		x := ps.picture[f*side*side*3 : (f+1)*side*side*3]
		for i, v := range n.convs {
			size := v.positions() * v.out
			y := ps.acts[i][f*size : (f+1)*size]
			v.forward(p, x, y, ps.cols)
			relu(y)
			x = y
		}
		spatialSoftmax(x, ps.seen[f*n.seen():], ps.prob[f*area:(f+1)*area], h, w, c)
	}
	n.flatten.forward(p, lastAct, ps.flat, ps.frames)
	relu(ps.flat[:ps.frames*n.Vision])
	for f := range ps.frames {
		copy(ps.seen[f*n.seen()+2*c:(f+1)*n.seen()], ps.flat[f*n.Vision:(f+1)*n.Vision])
	}
	d := n.hidden[0].in
	for i := range ps.samples {
		f := ps.frame[i]
		copy(ps.in[i*d:], ps.seen[f*n.seen():(f+1)*n.seen()])
	}
	n.hidden[0].forward(p, ps.in, ps.h0, ps.samples)
	relu(ps.h0[:ps.samples*n.Hidden])
	n.hidden[1].forward(p, ps.h0, ps.h1, ps.samples)
	relu(ps.h1[:ps.samples*n.Hidden])
	n.output.forward(p, ps.h1, ps.out, ps.samples)
	blas32.Gemm(blas.NoTrans, blas.Trans, 1, ps.rest(), matrix(p[n.skip:], n.outputs, n.rest()), 1, matrix(ps.out, ps.samples, n.outputs))
}

// rest is what the samples see beside the picture, [samples, rest].
func (ps *pass) rest() blas32.General {
	n := ps.net
	return blas32.General{Rows: ps.samples, Cols: n.rest(), Stride: n.hidden[0].in, Data: ps.in[n.seen():]}
}

// backward adds the gradient to g, from dout of every sample.
func (ps *pass) backward(p, g []float32) {
	n := ps.net
	h, w, c := n.last()
	area := h * w * c
	lastAct := ps.acts[len(ps.acts)-1]
	blas32.Gemm(blas.Trans, blas.NoTrans, 1, matrix(ps.dout, ps.samples, n.outputs), ps.rest(), 1, matrix(g[n.skip:], n.outputs, n.rest()))
	n.output.backward(p, g, ps.h1, ps.dout, ps.dh1, ps.samples)
	reluBackward(ps.h1[:ps.samples*n.Hidden], ps.dh1)
	n.hidden[1].backward(p, g, ps.h0, ps.dh1, ps.dh0, ps.samples)
	reluBackward(ps.h0[:ps.samples*n.Hidden], ps.dh0)
	n.hidden[0].backward(p, g, ps.in, ps.dh0, ps.din, ps.samples)
	clear(ps.dseen[:ps.frames*n.seen()])
	d := n.hidden[0].in
	for i := range ps.samples {
		addRows(ps.dseen[ps.frame[i]*n.seen():(ps.frame[i]+1)*n.seen()], ps.din[i*d:], 1)
	}
	for f := range ps.frames {
		copy(ps.dflat[f*n.Vision:(f+1)*n.Vision], ps.dseen[f*n.seen()+2*c:(f+1)*n.seen()])
	}
	reluBackward(ps.flat[:ps.frames*n.Vision], ps.dflat)
	n.flatten.backward(p, g, lastAct, ps.dflat, ps.dlast, ps.frames)
	for f := range ps.frames {
		dy := ps.dlast[f*area : (f+1)*area]
		spatialSoftmaxBackward(ps.seen[f*n.seen():], ps.dseen[f*n.seen():], ps.prob[f*area:(f+1)*area], dy, h, w, c)
		for i := len(n.convs) - 1; i >= 0; i-- {
			v := n.convs[i]
			size := v.positions() * v.out
			reluBackward(ps.acts[i][f*size:(f+1)*size], dy[:size])
			var x, dx []float32
			if i == 0 {
				x = ps.picture[f*side*side*3:] // nobody asks for the gradient of the picture
			} else {
				before := v.h * v.w * v.in
				x, dx = ps.acts[i-1][f*before:], ps.dacts[i%2][:before]
			}
			v.backward(p, g, x, dy, dx, ps.cols, ps.dcols)
			dy = dx
		}
	}
}

// workers runs f(worker, i) for i in 0..n-1 on the cores there are. Which worker runs which i changes nothing but who owns the memory.
func workers(n int, f func(worker, i int)) {
	w := min(runtime.GOMAXPROCS(0), n)
	if w <= 1 {
		for i := range n {
			f(0, i)
		}
		return
	}
	var next atomic.Int64
	run := func(k int) {
		for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
			f(k, i)
		}
	}
	var wg sync.WaitGroup
	for k := 1; k < w; k++ {
		wg.Go(func() { run(k) })
	}
	run(0)
	wg.Wait()
}
