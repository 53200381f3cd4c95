package page

import (
	"fmt"
	"math"
	"strings"

	"github.com/culvert-k8s/culvert/test/bench/measure"
)

// Plot is a picture of bars: a group for each case, a bar for each way, all as
// multiples of the first way, with the spread of the rounds.
type Plot struct {
	// Title stands above.
	Title string
	// Metric is what is drawn, Cases in which cases.
	Metric string
	Cases  []string
	Ways   []Way
}

// The measures of a plot, in pixels.
const (
	plotWidth  = 900
	nameWidth  = 300
	barHeight  = 13
	barGap     = 2
	groupGap   = 14
	plotTop    = 64
	plotBottom = 34
	valueWidth = 150
)

// colours of the ways, readable on white and on black.
func colours() []string {
	return []string{"#7f7f7f", "#d95f02", "#e6ab02", "#7570b3", "#a6761d", "#1b9e77"}
}

// bar is one value with its spread, relative to the first way.
type bar struct {
	way              int
	value, low, high float64
	label            string
}

// bars are those of a case; none if the first way has no value.
func (p *Plot) bars(r *measure.Results, c string) []bar {
	base := r.Find(c, p.Metric, p.Ways[0].Name).Median()
	if math.IsNaN(base) || base == 0 {
		return nil
	}
	var all []bar
	for i, w := range p.Ways {
		s := r.Find(c, p.Metric, w.Name)
		value := s.Median()
		if math.IsNaN(value) {
			continue
		}
		low, high := s.Range()
		label := fmt.Sprintf("%s %s", Number(value), s.Unit)
		if i > 0 {
			label += "  ×" + Number(value/base)
		}
		all = append(all, bar{i, value / base, low / base, high / base, label})
	}
	return all
}

// SVG draws the plot; it is empty if there is nothing to draw.
func (p *Plot) SVG(r *measure.Results) string {
	groups := map[string][]bar{}
	largest, height := 1.0, plotTop
	for _, c := range p.Cases {
		groups[c] = p.bars(r, c)
		for _, b := range groups[c] {
			largest = max(largest, b.value)
		}
		if n := len(groups[c]); n > 0 {
			height += n*(barHeight+barGap) + groupGap
		}
	}
	if height == plotTop {
		return ""
	}
	scale := float64(plotWidth-nameWidth-valueWidth) / largest
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="12">`,
		plotWidth, height+plotBottom)
	b.WriteString("\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n")
	fmt.Fprintf(&b, "<text x=\"12\" y=\"22\" font-size=\"15\" font-weight=\"bold\">%s</text>\n", escape(p.Title))
	p.legend(&b)
	top := plotTop
	for _, c := range p.Cases {
		if len(groups[c]) == 0 {
			continue
		}
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", nameWidth-8, top+barHeight, escape(c))
		for _, one := range groups[c] {
			one.draw(&b, top, scale)
			top += barHeight + barGap
		}
		top += groupGap
	}
	x := nameWidth + scale
	fmt.Fprintf(&b, "<line x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\" stroke=\"#333333\" stroke-dasharray=\"3 3\"/>\n", x, plotTop-6, x, height)
	fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">1 = %s</text>\n</svg>\n", x, height+16, escape(p.Ways[0].Title))
	return b.String()
}

func (p *Plot) legend(b *strings.Builder) {
	x := 12
	for i, w := range p.Ways {
		fmt.Fprintf(b, "<rect x=\"%d\" y=\"34\" width=\"11\" height=\"11\" fill=\"%s\"/><text x=\"%d\" y=\"44\">%s</text>\n",
			x, colours()[i%len(colours())], x+16, escape(w.Title))
		x += 34 + 7*len([]rune(w.Title))
	}
}

// draw draws the bar, its spread as a line, and its value.
func (o *bar) draw(b *strings.Builder, top int, scale float64) {
	width := o.value * scale
	fmt.Fprintf(b, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>\n", nameWidth, top, width, barHeight, colours()[o.way%len(colours())])
	limit := float64(plotWidth - nameWidth - valueWidth)
	low, high := min(o.low*scale, limit), min(o.high*scale, limit)
	middle := float64(top) + barHeight/2.0
	fmt.Fprintf(b, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#000000\"/>\n", nameWidth+low, middle, nameWidth+high, middle)
	fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%d\" font-size=\"11\">%s</text>\n", nameWidth+max(width, high)+5, top+barHeight-2, escape(o.label))
}
