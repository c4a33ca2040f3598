#include "log_plot.h"

#include <algorithm>
#include <cmath>

#include "table.h"

namespace gdn::tools {
namespace {

constexpr double kPanelWidth = 400, kPanelHeight = 330, kGap = 24;
constexpr double kLeft = 64, kTop = 64, kBelow = 48, kLegendRow = 20;
constexpr int kLegendColumns = 4;
constexpr double kMark = 3;  // radius

bool drawable(double value) { return std::isfinite(value) && value > 0; }

std::string escaped(const std::string& raw) {
  std::string safe;
  for (char c : raw) {
    switch (c) {
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '&':
        safe += "&amp;";
        break;
      default:
        safe += c;
    }
  }
  return safe;
}

std::string words(double x, double y, const char* attributes, const std::string& content) {
  return text("<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, attributes) + escaped(content) + "</text>\n";
}

std::string stroke(double x1, double y1, double x2, double y2, const std::string& attributes) {
  return text("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" ", x1, y1, x2, y2) +
         attributes + "/>\n";
}

std::string style_of(const PlotLine& line) {
  return "stroke=\"" + line.colour + "\" stroke-width=\"1.8\" fill=\"none\"" +
         (line.dashed ? " stroke-dasharray=\"5 4\"" : "");
}

// The decades that hold every value, and where a value stands among them.
struct Decades {
  int lowest = 0, highest = 1;

  explicit Decades(const Plot& plot) {
    bool any = false;
    const auto widen = [&](double value) {
      if (!drawable(value)) return;
      const double decade = std::log10(value);
      const int below = static_cast<int>(std::floor(decade));
      const int above = static_cast<int>(std::ceil(decade));
      lowest = any ? std::min(lowest, below) : below;
      highest = any ? std::max(highest, above) : above;
      any = true;
    };
    for (const PlotPanel& panel : plot.panels) {
      for (const PlotLine& line : panel.lines) {
        for (double value : line.values) widen(value);
        widen(line.apart);
      }
    }
    highest = std::max(highest, lowest + 1);
  }
  double height(double value) const {
    return kTop + kPanelHeight * (highest - std::log10(value)) / (highest - lowest);
  }
};

class Panel {
 public:
  Panel(const Plot& plot, const PlotPanel& panel, const Decades& decades, double left)
      : plot_(plot), panel_(panel), decades_(decades), left_(left) {
    for (const PlotLine& line : panel.lines) {
      steps_ = std::max(steps_, static_cast<int>(line.values.size()));
      has_apart_ = has_apart_ || drawable(line.apart);
    }
  }

  std::string svg(bool first) const {
    std::string out =
        words(left_ + kPanelWidth / 2, kTop - 10, "text-anchor=\"middle\"", panel_.title);
    for (int decade = decades_.lowest; decade <= decades_.highest; ++decade) {
      const double y = decades_.height(std::pow(10.0, decade));
      out += stroke(left_, y, left_ + kPanelWidth, y,
                    decade == 0 ? "stroke=\"#b0b0b0\"" : "stroke=\"#e4e4e4\"");
      if (!first || (decade - decades_.lowest) % 2 != 0) continue;
      out += text(
          "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">10<tspan dy=\"-5\" "
          "font-size=\"9\">%d</tspan></text>\n",
          left_ - 8, y + 5, decade);
    }
    for (int step = 0; step < steps_; step += 2) {
      out +=
          words(x(step), kTop + kPanelHeight + 18, "text-anchor=\"middle\"", std::to_string(step));
    }
    if (has_apart_) {
      out += words(apart(), kTop + kPanelHeight + 18, "text-anchor=\"middle\"", plot_.apart_label);
    }
    out += words(left_ + kPanelWidth / 2, kTop + kPanelHeight + 38, "text-anchor=\"middle\"",
                 plot_.x_label);
    for (const PlotLine& line : panel_.lines) out += curve(line);
    return out + text(
                     "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"none\" "
                     "stroke=\"#808080\"/>\n",
                     left_, kTop, kPanelWidth, kPanelHeight);
  }

 private:
  // Steps stand between the edges, what is apart has a place after the last.
  double x(int step) const {
    return left_ + kPanelWidth * (step + 0.5) / (steps_ + (has_apart_ ? 2 : 0));
  }
  double apart() const { return x(steps_ + 1) - 4; }

  std::string curve(const PlotLine& line) const {
    std::string path;
    bool down = false;
    for (size_t i = 0; i < line.values.size(); ++i) {
      if (!drawable(line.values[i])) {
        down = false;
        continue;
      }
      path += text("%s%.1f %.1f", down ? " L" : " M", x(static_cast<int>(i)),
                   decades_.height(line.values[i]));
      down = true;
    }
    std::string out =
        "<path d=\"" + (path.empty() ? "" : path.substr(1)) + "\" " + style_of(line) + "/>\n";
    if (drawable(line.apart)) {
      out += text("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" ", apart(),
                  decades_.height(line.apart), kMark) +
             (line.dashed ? "fill=\"#ffffff\" stroke=\"" + line.colour + "\""
                          : "fill=\"" + line.colour + "\"") +
             "/>\n";
    }
    return out;
  }

  const Plot& plot_;
  const PlotPanel& panel_;
  const Decades& decades_;
  const double left_;
  int steps_ = 1;
  bool has_apart_ = false;
};

std::string legend(const std::vector<PlotLine>& lines, double top, double width) {
  std::string out;
  for (size_t i = 0; i < lines.size(); ++i) {
    const double x = kLeft + static_cast<double>(i % kLegendColumns) * width / kLegendColumns;
    const double y = top + kLegendRow * static_cast<double>(i / kLegendColumns);
    out += stroke(x, y, x + 28, y, style_of(lines[i]));
    out += words(x + 34, y + 4, "", lines[i].label);
  }
  return out;
}

}  // namespace

std::string to_svg(const Plot& plot) {
  const Decades decades(plot);
  const double panels = static_cast<double>(std::max<size_t>(1, plot.panels.size()));
  const double inner = panels * (kPanelWidth + kGap) - kGap;
  const std::vector<PlotLine> lines =
      plot.panels.empty() ? std::vector<PlotLine>() : plot.panels[0].lines;
  const double rows =
      std::ceil(static_cast<double>(lines.size()) / static_cast<double>(kLegendColumns));
  const double width = kLeft + inner + kGap;
  const double legend_top = kTop + kPanelHeight + kBelow + kLegendRow;
  const double height = legend_top + rows * kLegendRow;
  std::string out = text(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" "
      "height=\"%.0f\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#303030\">\n",
      width, height, width, height);
  out += "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n";
  out += words(kLeft + inner / 2, 24, "text-anchor=\"middle\" font-size=\"15\"", plot.title);
  const double middle = kTop + kPanelHeight / 2;
  out += words(16, middle,
               text("text-anchor=\"middle\" transform=\"rotate(-90 16 %.1f)\"", middle).c_str(),
               plot.y_label);
  for (size_t i = 0; i < plot.panels.size(); ++i) {
    const double left = kLeft + static_cast<double>(i) * (kPanelWidth + kGap);
    out += Panel(plot, plot.panels[i], decades, left).svg(i == 0);
  }
  return out + legend(lines, legend_top, inner) + "</svg>\n";
}

}  // namespace gdn::tools
