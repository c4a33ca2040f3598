// Lines over a few integers with a logarithmic height, as an SVG picture.
#pragma once

#include <string>
#include <vector>

namespace gdn::tools {

struct PlotLine {
  std::string label;  // in the legend; lines of one label look alike
  std::string colour;
  bool dashed = false;
  std::vector<double> values;  // at 0, 1, ...; what is not positive and finite interrupts the line
  double apart = 0;            // a mark of its own at the right edge; 0: none
};

struct PlotPanel {
  std::string title;
  std::vector<PlotLine> lines;
};

struct Plot {
  std::string title, x_label, y_label, apart_label;
  std::vector<PlotPanel> panels;  // side by side, on one scale; the first one's labels are the
                                  // legend
};

std::string to_svg(const Plot& plot);

}  // namespace gdn::tools
